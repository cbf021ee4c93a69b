//! DPP, SDWA, lane reads and writes, permutes.

use super::{Case, Wave, check, lane, one, wave};

/// A wave whose lane `l` gets `f(l)`.
fn each(f: impl Fn(usize) -> u32) -> Wave {
    std::array::from_fn(|l| one(f(l)))
}

pub(crate) fn cases() -> Vec<Case> {
    let mut v = dpp();
    v.extend(sdwa());
    v.extend(moves());
    v
}

fn dpp() -> Vec<Case> {
    vec![
        wave("v_mov_b32_dpp v16, v4 quad_perm:[3,0,1,1] row_mask:0xf bank_mask:0xf", |a, _, _| {
            each(|l| a[l & !3 | [3, 0, 1, 1][l & 3]][0])
        }),
        wave("v_mov_b32_dpp v16, v4 row_shr:3 row_mask:0xf bank_mask:0xf", |a, _, _| {
            each(|l| if l % 16 >= 3 { a[l - 3][0] } else { 0 })
        }),
        wave(
            "v_mov_b32 v16, v8\nv_mov_b32_dpp v16, v4 row_shl:1 row_mask:0xf bank_mask:0xf",
            |a, b, _| each(|l| if l % 16 < 15 { a[l + 1][0] } else { b[l][0] }),
        ),
        wave(
            "v_mov_b32 v16, v8\n\
              v_mov_b32_dpp v16, v4 row_shl:1 row_mask:0xf bank_mask:0xf bound_ctrl:0",
            |a, _, _| each(|l| if l % 16 < 15 { a[l + 1][0] } else { 0 }),
        ),
        wave("v_mov_b32_dpp v16, v4 row_ror:5 row_mask:0xf bank_mask:0xf", |a, _, _| {
            each(|l| a[l & !15 | (l + 11) & 15][0])
        }),
        wave("v_mov_b32_dpp v16, v4 row_mirror row_mask:0xf bank_mask:0xf", |a, _, _| {
            each(|l| a[l ^ 15][0])
        }),
        wave("v_mov_b32_dpp v16, v4 row_half_mirror row_mask:0xf bank_mask:0xf", |a, _, _| {
            each(|l| a[l ^ 7][0])
        }),
        wave("v_mov_b32_dpp v16, v4 row_bcast:15 row_mask:0xa bank_mask:0xf", |a, _, _| {
            each(|l| if l / 16 % 2 == 1 { a[l / 16 * 16 - 1][0] } else { 0 })
        }),
        wave("v_mov_b32_dpp v16, v4 row_bcast:31 row_mask:0xc bank_mask:0xf", |a, _, _| {
            each(|l| if l >= 32 { a[31][0] } else { 0 })
        }),
        wave("v_mov_b32_dpp v16, v4 row_newbcast:6 row_mask:0xf bank_mask:0xf", |a, _, _| {
            each(|l| a[l & !15 | 6][0])
        }),
        wave("v_mov_b32_dpp v16, v4 wave_shr:1 row_mask:0xf bank_mask:0xf", |a, _, _| {
            each(|l| if l > 0 { a[l - 1][0] } else { 0 })
        }),
        wave("v_mov_b32_dpp v16, v4 quad_perm:[1,0,3,2] row_mask:0x5 bank_mask:0x9", |a, _, _| {
            each(|l| {
                let on = l / 16 % 2 == 0 && matches!(l / 4 % 4, 0 | 3);
                if on { a[l ^ 1][0] } else { 0 }
            })
        }),
        wave(
            "v_add_u32_dpp v16, v4, v8 row_shr:1 row_mask:0xf bank_mask:0xf bound_ctrl:0",
            |a, b, _| {
                each(|l| {
                    let x = if l % 16 > 0 { a[l - 1][0] } else { 0 };
                    x.wrapping_add(b[l][0])
                })
            },
        ),
    ]
}

fn sdwa() -> Vec<Case> {
    vec![
        lane(
            "v_add_u32_sdwa v16, v4, v8 dst_sel:DWORD src0_sel:BYTE_1 src1_sel:WORD_1",
            |a, b, _| one((a[0] >> 8 & 255) + (b[0] >> 16)),
        ),
        lane(
            "v_add_u32_sdwa v16, sext(v4), v8 dst_sel:DWORD src0_sel:BYTE_3 src1_sel:DWORD",
            |a, b, _| one(((a[0] >> 24) as i8 as u32).wrapping_add(b[0])),
        ),
        lane(
            "v_mov_b32 v16, v12\n\
              v_or_b32_sdwa v16, v4, v8 dst_sel:WORD_1 dst_unused:UNUSED_PRESERVE \
              src0_sel:WORD_0 src1_sel:WORD_1",
            |a, b, c| one(c[0] & 0xffff | (a[0] & 0xffff | b[0] >> 16) << 16),
        ),
        lane(
            "v_mov_b32_sdwa v16, v4 dst_sel:BYTE_1 dst_unused:UNUSED_PAD src0_sel:BYTE_2",
            |a, _, _| one((a[0] >> 16 & 255) << 8),
        ),
        lane(
            "v_mov_b32_sdwa v16, v4 dst_sel:WORD_0 dst_unused:UNUSED_SEXT src0_sel:WORD_1",
            |a, _, _| one((a[0] >> 16) as i16 as u32),
        ),
        lane(
            "v_cmp_eq_u32_sdwa vcc, v4, v8 src0_sel:BYTE_0 src1_sel:BYTE_0\n\
              v_cndmask_b32 v16, 0, 1, vcc",
            |a, b, _| one((a[0] & 255 == b[0] & 255).into()),
        ),
    ]
}

/// The exec mask of lanes whose c[0] is odd, as these tests set it.
fn odd(c: &Wave) -> u64 {
    (0..64).fold(0, |m, l| m | u64::from(c[l][0] & 1) << l)
}

const ODD: &str = "v_and_b32 v12, 1, v12\nv_cmp_eq_u32 vcc, 1, v12\n\
                   s_and_saveexec_b64 s[30:31], vcc\n";
const ALL: &str = "\ns_mov_b64 exec, s[30:31]";

fn moves() -> Vec<Case> {
    vec![
        wave("v_readfirstlane_b32 s20, v4\nv_mov_b32 v16, s20", |a, _, _| each(|_| a[0][0])),
        wave("v_readlane_b32 s20, v4, 37\nv_mov_b32 v16, s20", |a, _, _| each(|_| a[37][0])),
        wave(
            "v_mov_b32 v16, v4\ns_movk_i32 s20, 0x1234\nv_writelane_b32 v16, s20, 9",
            |a, _, _| each(|l| if l == 9 { 0x1234 } else { a[l][0] }),
        ),
        wave("v_mov_b32 v16, v4\nv_mov_b32 v17, v8\nv_permlane32_swap_b32 v16, v17", |a, b, _| {
            std::array::from_fn(|l| match l {
                0..=31 => [a[l][0], a[l + 32][0], 0, 0],
                _ => [b[l - 32][0], b[l][0], 0, 0],
            })
        }),
        wave("v_mov_b32 v16, v4\nv_mov_b32 v17, v8\nv_permlane16_swap_b32 v16, v17", |a, b, _| {
            std::array::from_fn(|l| match l / 16 % 2 {
                0 => [a[l][0], a[l + 16][0], 0, 0],
                _ => [b[l - 16][0], b[l][0], 0, 0],
            })
        }),
        wave(&format!("{ODD}v_mov_b32 v16, v4{ALL}"), |a, _, c| {
            each(|l| if odd(c) >> l & 1 == 1 { a[l][0] } else { 0 })
        }),
        wave("v_mbcnt_lo_u32_b32 v16, -1, v4\nv_mbcnt_hi_u32_b32 v16, -1, v16", |a, _, _| {
            each(|l| a[l][0].wrapping_add(l as u32))
        }),
        // `v_cmpx` restricts EXEC.
        wave(
            "s_mov_b64 s[30:31], exec\nv_cmpx_lt_u32 vcc, v4, v8\nv_mov_b32 v16, 1\n\
              s_mov_b64 exec, s[30:31]",
            |a, b, _| each(|l| (a[l][0] < b[l][0]).into()),
        ),
        wave(
            "v_and_b32 v5, 63, v5\nv_lshlrev_b32 v5, 2, v5\nds_bpermute_b32 v16, v5, v4",
            |a, _, _| each(|l| a[(a[l][1] & 63) as usize][0]),
        ),
        wave(
            "v_mbcnt_lo_u32_b32 v20, -1, 0\nv_mbcnt_hi_u32_b32 v20, -1, v20\n\
              v_sub_u32 v20, 63, v20\nv_lshlrev_b32 v20, 2, v20\nds_permute_b32 v16, v20, v4",
            |a, _, _| each(|l| a[63 - l][0]),
        ),
        wave("ds_swizzle_b32 v16, v4 offset:swizzle(SWAP,16)", |a, _, _| each(|l| a[l ^ 16][0])),
        wave("ds_swizzle_b32 v16, v4 offset:swizzle(QUAD_PERM,2,2,0,3)", |a, _, _| {
            each(|l| a[l & !3 | [2, 2, 0, 3][l & 3]][0])
        }),
        wave("ds_swizzle_b32 v16, v4 offset:swizzle(BROADCAST,8,3)", |a, _, _| {
            each(|l| a[l & !7 | 3][0])
        }),
        wave("ds_swizzle_b32 v16, v4 offset:swizzle(REVERSE,32)", |a, _, _| {
            each(|l| a[l & 32 | (31 - (l & 31))][0])
        }),
        wave(
            "s_mov_b32 s20, 2\ns_set_gpr_idx_on s20, gpr_idx(SRC0)\nv_mov_b32 v16, v4\n\
              s_set_gpr_idx_off",
            |a, _, _| each(|l| a[l][2]),
        ),
        wave(
            "s_mov_b32 s20, 1\ns_set_gpr_idx_on s20, gpr_idx(DST)\nv_mov_b32 v16, v4\n\
              s_set_gpr_idx_idx s20\ns_set_gpr_idx_mode gpr_idx(SRC0)\nv_mov_b32 v16, v4\n\
              s_set_gpr_idx_off",
            |a, _, _| std::array::from_fn(|l| [a[l][1], a[l][0], 0, 0]),
        ),
    ]
}

#[test]
fn lanes() {
    check(&cases());
}
