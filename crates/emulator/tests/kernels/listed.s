buffer_atomic_pk_add_bf16 v1, v2, s[4:7], 0 offen
buffer_inv
buffer_load_dword v1, v2, s[4:7], 0 offen
buffer_load_dwordx2 v[4:5], v2, s[4:7], 0 offen
buffer_load_dwordx4 v[4:7], v2, s[4:7], 0 offen
buffer_load_short_d16 v1, v2, s[4:7], 0 offen
buffer_store_dword v1, v2, s[4:7], 0 offen
buffer_store_dwordx2 v[4:5], v2, s[4:7], 0 offen
buffer_store_dwordx4 v[4:7], v2, s[4:7], 0 offen
buffer_wbl2
ds_add_rtn_u32 v1, v2, v3
ds_add_u32 v1, v2
ds_bpermute_b32 v1, v2, v3
ds_read2_b32 v[0:1], v2
ds_read_b128 v[4:7], v1 offset:8
ds_read_b32 v1, v2
ds_read_b64 v[0:1], v2
ds_read_b64_tr_b16 v[0:1], v2
ds_read_b64_tr_b4 v[0:1], v2
ds_read_b64_tr_b8 v[0:1], v2
ds_swizzle_b32 v1, v2
ds_write2_b32 v1, v2, v3
ds_write_b128 v1, v[4:7] offset:8
ds_write_b32 v1, v2
ds_write_b64 v1, v[2:3]
flat_load_dword v1, v[2:3]
flat_load_dwordx4 v[4:7], v[2:3]
flat_store_dword v[0:1], v2
global_atomic_add v[2:3], v1, off
global_atomic_add_f32 v[2:3], v1, off
global_atomic_add_f64 v[4:5], v[2:3], off
global_atomic_add_x2 v[4:5], v[2:3], off
global_atomic_cmpswap v[4:5], v[2:3], off
global_atomic_pk_add_bf16 v[2:3], v1, off
global_atomic_umax v[2:3], v1, off
global_load_dword v1, v[2:3], off
global_load_dwordx2 v[4:5], v[2:3], off
global_load_dwordx4 v[4:7], v[2:3], off
global_load_lds_dword v[2:3], off
global_load_lds_dwordx4 v[2:3], off
global_load_ubyte v1, v[2:3], off
global_load_ushort v1, v[2:3], off
global_store_byte v[2:3], v1, off
global_store_dword v[2:3], v1, off
global_store_dwordx2 v[4:5], v[2:3], off
global_store_dwordx4 v[2:3], v[4:7], off
global_store_short v[2:3], v1, off
s_abs_i32 s0, s1
s_add_i32 s0, s2, s3
s_add_u32 s0, s2, s3
s_addc_u32 s0, s2, s3
s_addk_i32 s0, 1
s_and_b32 s0, s2, s3
s_and_b64 s[0:1], s[2:3], s[4:5]
s_and_saveexec_b64 s[0:1], s[2:3]
s_andn2_b32 s0, s2, s3
s_andn2_b64 s[0:1], s[2:3], s[4:5]
s_ashr_i32 s0, s2, s3
s_atomic_dec s0, s[2:3], 0x0
s_barrier
s_bcnt1_i32_b64 s0, 1
s_bfm_b32 s0, s2, s3
s_bfm_b64 s[0:1], s4, s5
s_bitset1_b32 s0, s1
s_branch 0
s_cbranch_execnz 0
s_cbranch_execz 0
s_cbranch_scc0 0
s_cbranch_scc1 0
s_cbranch_vccnz 0
s_cbranch_vccz 0
s_cmp_eq_i32 s0, s1
s_cmp_eq_u32 s0, s1
s_cmp_ge_i32 s0, s1
s_cmp_ge_u32 s0, s1
s_cmp_gt_i32 s0, s1
s_cmp_gt_u32 s0, s1
s_cmp_le_i32 s0, s1
s_cmp_le_u32 s0, s1
s_cmp_lg_u32 s0, s1
s_cmp_lg_u64 s[0:1], s[2:3]
s_cmp_lt_i32 s0, s1
s_cmp_lt_u32 s0, s1
s_cmpk_eq_i32 s0, 1
s_cmpk_eq_u32 s0, 1
s_cmpk_gt_i32 s0, 1
s_cmpk_lt_i32 s0, 1
s_cselect_b32 s0, s2, s3
s_cselect_b64 s[0:1], s[2:3], s[4:5]
s_endpgm
s_ff1_i32_b32 s0, s1
s_ff1_i32_b64 s0, 1
s_load_dword s0, s[2:3], 0x0
s_load_dwordx16 s[16:31], s[2:3], 0x0
s_load_dwordx2 s[0:1], s[2:3]
s_load_dwordx4 s[4:7], s[2:3], 0x0
s_load_dwordx8 s[8:15], s[2:3], 0x0
s_lshl_b32 s0, s2, s3
s_lshl_b64 s[0:1], s[2:3], s4
s_lshr_b32 s0, s2, s3
s_max_u32 s0, s2, s3
s_min_i32 s0, s2, s3
s_min_u32 s0, s2, s3
s_mov_b32 s0, s1
s_mov_b64 s[0:1], s[2:3]
s_movk_i32 s0, 1
s_mul_hi_i32 s0, s2, s3
s_mul_hi_u32 s0, s2, s3
s_mul_i32 s0, s2, s3
s_nop 0
s_or_b32 s0, s2, s3
s_or_b64 s[0:1], s[2:3], s[4:5]
s_or_saveexec_b64 s[0:1], s[2:3]
s_orn2_b64 s[0:1], s[2:3], s[4:5]
s_set_gpr_idx_off
s_set_gpr_idx_on s0, 1
s_setprio 0
s_sleep 0
s_store_dword s0, s[2:3], 0x0
s_sub_i32 s0, s2, s3
s_sub_u32 s0, s2, s3
s_subb_u32 s0, s2, s3
s_waitcnt 0
s_xor_b32 s0, s2, s3
s_xor_b64 s[0:1], s[2:3], s[4:5]
v_accvgpr_read_b32 v1, a1
v_accvgpr_write_b32 a1, v1
v_add3_u32 v1, v2, v3, v4
v_add_co_u32_e32 v1, v2, v3
v_add_co_u32_e64 v1, vcc, v2, v3
v_add_f32_dpp v1, v2, v3 quad_perm:[0,1,2,3] row_mask:0xf bank_mask:0xf
v_add_f32_e32 v1, v2, v3
v_add_f32_e64 v1, v2, v3
v_add_f64 v[0:1], v[2:3], v[4:5]
v_add_i32 v1, v2, v3
v_add_u32_dpp v1, v2, v3 quad_perm:[0,1,2,3] row_mask:0xf bank_mask:0xf
v_add_u32_e32 v1, v2, v3
v_add_u32_e64 v1, v2, v3
v_addc_co_u32_e32 v1, vcc, v2, v3, vcc
v_addc_co_u32_e64 v1, vcc, v2, v3, vcc
v_and_b32_e32 v1, v2, v3
v_and_b32_e64 v1, v2, v3
v_and_or_b32 v1, v2, v3, v4
v_ashrrev_i32_e32 v1, v2, v3
v_bfe_u32 v1, v2, v3, v4
v_bfm_b32 v1, v2, v3
v_bfrev_b32_e32 v1, v2
v_bitop3_b16 v1, v2, v3, v4
v_bitop3_b32 v1, v2, v3, v4
v_cmp_class_f32_e64 vcc, v1, v2
v_cmp_eq_f32_e64 vcc, v1, v2
v_cmp_eq_u32_e32 v1, v2
v_cmp_eq_u32_e64 vcc, v1, v2
v_cmp_ge_f32_e64 vcc, v1, v2
v_cmp_ge_u32_e64 vcc, v1, v2
v_cmp_gt_f32_e32 v1, v2
v_cmp_gt_f32_e64 vcc, v1, v2
v_cmp_gt_i32_e32 v1, v2
v_cmp_gt_i32_e64 vcc, v1, v2
v_cmp_gt_u32_e32 v1, v2
v_cmp_gt_u32_e64 vcc, v1, v2
v_cmp_gt_u64_e32 v[0:1], v[2:3]
v_cmp_le_i32_e32 v1, v2
v_cmp_le_i32_e64 vcc, v1, v2
v_cmp_le_u32_e32 v1, v2
v_cmp_le_u32_e64 vcc, v1, v2
v_cmp_le_u64_e64 s[4:5], s[2:3], 0x0
v_cmp_lt_f32_e32 v1, v2
v_cmp_lt_f32_e64 vcc, v1, v2
v_cmp_lt_i32_e32 v1, v2
v_cmp_lt_i32_e64 vcc, v1, v2
v_cmp_lt_i64_e64 s[4:5], s[2:3], 0x0
v_cmp_lt_u32_e32 v1, v2
v_cmp_lt_u32_e64 vcc, v1, v2
v_cmp_ne_u16_e64 vcc, v1, v2
v_cmp_ne_u32_e64 vcc, v1, v2
v_cmp_neq_f32_e64 vcc, v1, v2
v_cmp_nge_f32_e32 v1, v2
v_cmp_ngt_f32_e32 v1, v2
v_cmp_nlt_f32_e32 v1, v2
v_cmp_u_f32_e64 vcc, v1, v2
v_cndmask_b32_e32 v1, v2, v3
v_cndmask_b32_e64 v1, v2, v3, vcc
v_cvt_f32_f16 v1, v2
v_cvt_f32_i32_e32 v1, v2
v_cvt_f32_u32_e32 v1, v2
v_cvt_f64_f32_e32 v[0:1], v2
v_cvt_i32_f32_e32 v1, v2
v_cvt_pk_bf16_f32 v1, v2, v3
v_cvt_pk_f32_fp8_e32 v[0:1], v2
v_cvt_pk_f32_fp8_sdwa v[0:1], v2
v_cvt_pk_fp8_f32 v1, v2, v3
v_cvt_pk_u8_f32 v1, v2, v3, v4
v_cvt_pkrtz_f16_f32 v1, v2, v3
v_cvt_scalef32_pk_bf16_fp4 v1, v2, v3
v_cvt_scalef32_pk_bf16_fp8 v1, v2, v3
v_cvt_scalef32_pk_fp4_bf16 v1, v2, v3
v_cvt_scalef32_pk_fp4_f32 v1, v2, v3, v4
v_cvt_u32_f32_e32 v1, v2
v_div_fixup_f32 v1, v2, v3, v4
v_div_fmas_f32 v1, v2, v3, v4
v_div_scale_f32 v1, vcc, v2, v3, v4
v_exp_f32_e32 v1, v2
v_fma_f32 v1, v2, v3, v4
v_fmac_f32_e32 v1, v2, v3
v_ldexp_f32 v1, v2, v3
v_log_f32_e32 v1, v2
v_lshl_add_u32 v1, v2, v3, v4
v_lshl_add_u64 v[0:1], v[2:3], 1, v[4:5]
v_lshl_or_b32 v1, v2, v3, v4
v_lshlrev_b16_e32 v1, v2, v3
v_lshlrev_b32_e32 v1, v2, v3
v_lshlrev_b32_e64 v1, v2, v3
v_lshlrev_b64 v[0:1], v2, v[4:5]
v_lshrrev_b32_e32 v1, v2, v3
v_lshrrev_b32_e64 v1, v2, v3
v_mad_i32_i24 v1, v2, v3, v4
v_mad_i64_i32 v[0:1], s[0:1], v2, v3, v[4:5]
v_mad_u32_u24 v1, v2, v3, v4
v_mad_u64_u32 v[0:1], s[0:1], v2, v3, v[4:5]
v_max3_f32 v1, v2, v3, v4
v_max_f32_dpp v1, v2, v3 quad_perm:[0,1,2,3] row_mask:0xf bank_mask:0xf
v_max_f32_e32 v1, v2, v3
v_mbcnt_hi_u32_b32 v1, v2, v3
v_mbcnt_lo_u32_b32 v1, v2, v3
v_mfma_f32_16x16x128_f8f6f4 v[0:3], v[4:11], v[12:19], v[0:3]
v_mfma_f32_16x16x16_bf16 v[0:3], v[4:5], v[6:7], v[0:3]
v_mfma_f32_16x16x16_f16 v[0:3], v[4:5], v[6:7], v[0:3]
v_mfma_f32_16x16x32_bf16 v[0:3], v[4:7], v[8:11], v[0:3]
v_mfma_f32_16x16x32_fp8_fp8 v[0:3], v[4:5], v[6:7], v[0:3]
v_mfma_f32_32x32x16_bf16 v[0:15], v[16:19], v[20:23], v[0:15]
v_mfma_f32_32x32x64_f8f6f4 v[0:15], v[16:23], v[24:31], v[0:15]
v_mfma_f32_32x32x8_bf16 v[0:15], v[16:17], v[18:19], v[0:15]
v_mfma_i32_16x16x32_i8 v[0:3], v[4:5], v[6:7], v[0:3]
v_mfma_i32_32x32x32_i8 v[0:15], v[16:19], v[20:23], v[0:15]
v_mfma_scale_f32_16x16x128_f8f6f4 v[0:3], v[4:11], v[12:19], v[0:3], v20, v21
v_mfma_scale_f32_32x32x64_f8f6f4 v[0:15], v[16:23], v[24:31], v[0:15], v32, v33
v_min_i32_e32 v1, v2, v3
v_min_u32 v1, v2, v3
v_mov_b32_dpp v1, v2 quad_perm:[0,1,2,3] row_mask:0xf bank_mask:0xf
v_mov_b32_e32 v1, v2
v_mov_b64_e32 v[0:1], v[2:3]
v_mul_f32_dpp v1, v2, v3 quad_perm:[0,1,2,3] row_mask:0xf bank_mask:0xf
v_mul_f32_e32 v1, v2, v3
v_mul_f32_e64 v1, v2, v3
v_mul_hi_u32 v1, v2, v3
v_mul_i32_i24 v1, v2, v3
v_mul_i32_i24_dpp v1, v2, v3 quad_perm:[0,1,2,3] row_mask:0xf bank_mask:0xf
v_mul_i32_i24_e32 v1, v2, v3
v_mul_i32_i24_e64 v1, v2, v3
v_mul_lo_u16_e32 v1, v2, v3
v_mul_lo_u32 v1, v2, v3
v_mul_u32_u24_dpp v1, v2, v3 quad_perm:[0,1,2,3] row_mask:0xf bank_mask:0xf
v_mul_u32_u24_e32 v1, v2, v3
v_mul_u32_u24_e64 v1, v2, v3
v_mul_u32_u24_sdwa v1, v2, v3
v_nop
v_not_b32_e32 v1, v2
v_or3_b32 v1, v2, v3, v4
v_or_b32_dpp v1, v2, v3 quad_perm:[0,1,2,3] row_mask:0xf bank_mask:0xf
v_or_b32_e32 v1, v2, v3
v_perm_b32 v1, v2, v3, v4
v_permlane16_swap_b32 v1, v2
v_permlane32_swap_b32 v1, v2
v_pk_add_f32 v[0:1], v[2:3], v[4:5]
v_pk_fma_f32 v[0:1], v[2:3], v[4:5], v[6:7]
v_pk_mul_f32 v[0:1], v[2:3], v[4:5]
v_rcp_f32_e32 v1, v2
v_rcp_iflag_f32_e32 v1, v2
v_readfirstlane_b32 s0, v1
v_readlane_b32 s0, v1, s2
v_rndne_f32_e32 v1, v2
v_rsq_f32_e32 v1, v2
v_smfmac_f32_16x16x128_fp8_fp8 v[0:3], v[4:7], v[8:15], v16
v_sub_co_u32 v1, v2, v3
v_sub_f32_e32 v1, v2, v3
v_sub_f32_e64 v1, v2, v3
v_sub_i32 v1, v2, v3
v_sub_u16_e32 v1, v2, v3
v_sub_u32 v1, v2, v3
v_sub_u32_e64 v1, v2, v3
v_subbrev_co_u32 v1, vcc, v2, v3, vcc
v_subrev_f32 v1, v2, v3
v_subrev_u32 v1, v2, v3
v_swap_b32 v1, v2
v_writelane_b32 v1, s0, 3
v_xad_u32 v1, v2, v3, v4
v_xor_b32_e32 v1, v2, v3
v_cvt_scalef32_pk_f32_fp4 v[0:1], v2, v3
