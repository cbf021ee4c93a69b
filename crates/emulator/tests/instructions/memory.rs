//! Memory instructions: every width, D16, buffers with bounds, LDS, transposes, atomics, scratch.

use super::{Case, Quad, Wave, check, lane, one, two, wave, wide};

fn bytes(w: &Wave) -> Vec<u8> {
    w.iter().flatten().flat_map(|x| x.to_le_bytes()).collect()
}

fn le(b: &[u8]) -> u32 {
    b.iter().rev().fold(0, |x, b| x << 8 | u32::from(*b))
}

/// Loads from a, whose lane's 16 bytes start at v0.
fn loads() -> Vec<Case> {
    fn at(a: &Wave, l: usize, off: usize, n: usize) -> u32 {
        le(&bytes(a)[16 * l + off..16 * l + off + n])
    }
    fn every(f: impl Fn(usize) -> Quad) -> Wave {
        std::array::from_fn(f)
    }
    let mut v = vec![
        wave("global_load_ubyte v16, v0, s[4:5] offset:5", |a, _, _| {
            every(|l| one(at(a, l, 5, 1)))
        }),
        wave("global_load_sbyte v16, v0, s[4:5] offset:7", |a, _, _| {
            every(|l| one(at(a, l, 7, 1) as i8 as u32))
        }),
        wave("global_load_ushort v16, v0, s[4:5] offset:6", |a, _, _| {
            every(|l| one(at(a, l, 6, 2)))
        }),
        wave("global_load_sshort v16, v0, s[4:5] offset:2", |a, _, _| {
            every(|l| one(at(a, l, 2, 2) as i16 as u32))
        }),
        wave("v_mov_b32 v16, v8\nglobal_load_short_d16 v16, v0, s[4:5] offset:2", |a, b, _| {
            every(|l| one(b[l][0] & 0xffff_0000 | at(a, l, 2, 2)))
        }),
        wave("v_mov_b32 v16, v8\nglobal_load_short_d16_hi v16, v0, s[4:5]", |a, b, _| {
            every(|l| one(b[l][0] & 0xffff | at(a, l, 0, 2) << 16))
        }),
        wave("v_mov_b32 v16, v8\nglobal_load_ubyte_d16_hi v16, v0, s[4:5]", |a, b, _| {
            every(|l| one(b[l][0] & 0xffff | at(a, l, 0, 1) << 16))
        }),
        wave("v_mov_b32 v16, v8\nglobal_load_sbyte_d16 v16, v0, s[4:5]", |a, b, _| {
            every(|l| one(b[l][0] & 0xffff_0000 | at(a, l, 0, 1) as i8 as u16 as u32))
        }),
        wave("global_load_dwordx2 v[16:17], v0, s[4:5] offset:8", |a, _, _| {
            every(|l| [a[l][2], a[l][3], 0, 0])
        }),
        wave("global_load_dwordx3 v[16:18], v0, s[4:5] offset:4", |a, _, _| {
            every(|l| [a[l][1], a[l][2], a[l][3], 0])
        }),
        // The 64-bit address form, and flat.
        wave(
            "v_mov_b32 v20, s4\nv_mov_b32 v21, s5\nv_lshl_add_u64 v[20:21], v[20:21], 0, 16\n\
              global_load_dwordx4 v[16:19], v[20:21], off offset:-16",
            |a, _, _| every(|_| a[0]),
        ),
        wave(
            "v_mov_b32 v20, s4\nv_mov_b32 v21, s5\nv_mov_b32 v1, 0\n\
              v_lshl_add_u64 v[20:21], v[0:1], 0, v[20:21]\n\
              flat_load_dword v16, v[20:21] offset:4",
            |a, _, _| every(|l| one(a[l][1])),
        ),
        wave(
            "s_load_dwordx16 s[20:35], s[4:5], 0x20\ns_waitcnt lgkmcnt(0)\nv_mov_b32 v16, s20\n\
              v_mov_b32 v17, s35",
            |a, _, _| every(|_| [a[2][0], a[5][3], 0, 0]),
        ),
        wave(
            "s_movk_i32 s20, 0x10\ns_load_dwordx2 s[22:23], s[4:5], s20\ns_waitcnt lgkmcnt(0)\n\
              v_mov_b32 v16, s22\nv_mov_b32 v17, s23",
            |a, _, _| every(|_| [a[1][0], a[1][1], 0, 0]),
        ),
        // Scalar stores and atomics on the result's memory.
        wave(
            "s_movk_i32 s20, 7\ns_movk_i32 s21, 9\ns_store_dwordx2 s[20:21], s[10:11], 0x0\n\
              s_movk_i32 s22, 5\ns_atomic_add s22, s[10:11], 0x0 glc\n\
              s_movk_i32 s24, 0x70\ns_movk_i32 s25, 12\n\
              s_atomic_cmpswap s[24:25], s[10:11], 0x0 glc\n\
              s_movk_i32 s26, 8\ns_atomic_dec s26, s[10:11], 0x4\n\
              s_load_dwordx2 s[28:29], s[10:11], 0x0\ns_waitcnt lgkmcnt(0)\n\
              v_mov_b32 v16, s22\nv_mov_b32 v17, s24\nv_mov_b32 v18, s28\nv_mov_b32 v19, s29",
            |_, _, _| every(|_| [7, 12, 0x70, 8]),
        ),
        // A scalar read beyond a buffer's end gives zero.
        wave(
            &format!(
                "{DESCRIPTOR}s_buffer_load_dwordx4 s[24:27], s[20:23], 0x1f8\n\
                  s_waitcnt lgkmcnt(0)\nv_mov_b32 v16, s24\nv_mov_b32 v17, s25\n\
                  v_mov_b32 v18, s26\nv_mov_b32 v19, s27"
            ),
            |a, _, _| every(|_| [a[31][2], a[31][3], 0, 0]),
        ),
        // A buffer of 512 bytes: the upper half of the lanes reads zeros.
        wave(
            &format!("{DESCRIPTOR}buffer_load_dwordx4 v[16:19], v0, s[20:23], 0 offen"),
            |a, _, _| every(|l| if l < 32 { a[l] } else { [0; 4] }),
        ),
        // The scalar offset does not count against the bounds.
        wave(
            &format!(
                "{DESCRIPTOR}s_movk_i32 s24, 0x100\n\
              buffer_load_dword v16, v0, s[20:23], s24 offen offset:4"
            ),
            |a, _, _| every(|l| one(if l < 32 { a[l + 16][1] } else { 0 })),
        ),
        wave(
            &format!(
                "{DESCRIPTOR}v_mov_b32 v16, -1\n\
              buffer_load_short_d16 v16, v0, s[20:23], 0 offen"
            ),
            |a, _, _| every(|l| one(0xffff_0000 | if l < 32 { a[l][0] & 0xffff } else { 0 })),
        ),
    ];
    // Straight to LDS and back by each lane's own address.
    for (op, words) in [("dword", 1usize), ("dwordx3", 3), ("dwordx4", 4)] {
        let shift = if words == 3 {
            "v_mul_u32_u24 v20, 12, v20".into()
        } else {
            format!("v_lshlrev_b32 v20, {}, v20", 2 + words / 4 * 2)
        };
        let back = match words {
            1 => "ds_read_b32 v16, v20 offset:256",
            3 => {
                "ds_read_b32 v16, v20 offset:256\nds_read_b32 v17, v20 offset:260\n\
                  ds_read_b32 v18, v20 offset:264"
            }
            _ => "ds_read_b128 v[16:19], v20 offset:256",
        };
        let text = format!(
            "v_lshrrev_b32 v20, 4, v0\n{shift}\ns_movk_i32 m0, 0x100\ns_nop 0\n\
             global_load_lds_{op} v0, s[4:5]\ns_waitcnt vmcnt(0)\n{back}"
        );
        let model: fn(&Wave, &Wave, &Wave) -> Wave = match words {
            1 => |a, _, _| every(|l| one(a[l][0])),
            3 => |a, _, _| every(|l| [a[l][0], a[l][1], a[l][2], 0]),
            _ => |a, _, _| *a,
        };
        v.push(wave(&text, model));
    }
    v
}

/// s[20:23]: the buffer a, 512 bytes.
const DESCRIPTOR: &str = "s_mov_b32 s20, s4\ns_and_b32 s21, s5, 0xffff\ns_movk_i32 s22, 0x200\n\
                          s_mov_b32 s23, 0x20000\n";

/// Puts a in the result buffer, runs `op` on it, and reads it back.
fn through_memory(op: &str) -> String {
    format!(
        "global_store_dwordx4 v0, v[4:7], s[10:11]\ns_waitcnt vmcnt(0)\n{op}\ns_waitcnt vmcnt(0)\n\
         global_load_dwordx4 v[16:19], v0, s[10:11]"
    )
}

fn stores() -> Vec<Case> {
    let make = |op: &str, model| lane(&through_memory(op), model);
    let buffer = "s_mov_b32 s20, s10\ns_and_b32 s21, s11, 0xffff\ns_movk_i32 s22, 0x200\n\
                  s_mov_b32 s23, 0x20000\n";
    vec![
        make("global_store_byte v0, v8, s[10:11] offset:1", |a, b, _| {
            [a[0] & 0xffff_00ff | (b[0] & 255) << 8, a[1], a[2], a[3]]
        }),
        make("global_store_byte_d16_hi v0, v8, s[10:11]", |a, b, _| {
            [a[0] & 0xffff_ff00 | b[0] >> 16 & 255, a[1], a[2], a[3]]
        }),
        make("global_store_short v0, v8, s[10:11] offset:6", |a, b, _| {
            [a[0], a[1] & 0xffff | b[0] << 16, a[2], a[3]]
        }),
        make("global_store_short_d16_hi v0, v8, s[10:11]", |a, b, _| {
            [a[0] & 0xffff_0000 | b[0] >> 16, a[1], a[2], a[3]]
        }),
        make("global_store_dwordx2 v0, v[8:9], s[10:11] offset:4", |a, b, _| {
            [a[0], b[0], b[1], a[3]]
        }),
        make("global_store_dwordx3 v0, v[8:10], s[10:11]", |a, b, _| [b[0], b[1], b[2], a[3]]),
        wave(
            &through_memory(&format!(
                "{buffer}buffer_store_dword v8, v0, s[20:23], 0 offen offset:8"
            )),
            |a, b, _| {
                std::array::from_fn(|l| {
                    [a[l][0], a[l][1], if l < 32 { b[l][0] } else { a[l][2] }, a[l][3]]
                })
            },
        ),
        wave(
            &through_memory(&format!(
                "{buffer}buffer_atomic_pk_add_bf16 v9, v0, s[20:23], 0 offen"
            )),
            |a, b, _| {
                std::array::from_fn(|l| {
                    let x = if l < 32 { bf16_pair(a[l][0], b[l][1]) } else { a[l][0] };
                    [x, a[l][1], a[l][2], a[l][3]]
                })
            },
        ),
        // Private memory.
        lane(
            "scratch_store_dwordx2 off, v[4:5], off offset:8\ns_waitcnt vmcnt(0)\n\
              v_mov_b32 v20, 4\nscratch_load_dword v16, v20, off offset:8",
            |a, _, _| one(a[1]),
        ),
    ]
}

fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

fn bf16_pair(a: u32, b: u32) -> u32 {
    let add = |x: u32, y: u32| {
        let s = (f(x << 16) + f(y << 16)).to_bits();
        if f(s).is_nan() {
            return s >> 16 | 0x40;
        }
        let (d, rest) = (s >> 16, s & 0xffff);
        d + u32::from(rest > 0x8000 || rest == 0x8000 && d & 1 == 1)
    };
    add(a & 0xffff, b & 0xffff) | add(a >> 16, b >> 16) << 16
}

/// Returning atomics on memory and LDS: the old value, then the new one.
fn atomics() -> Vec<Case> {
    let table = [
        ("add", "add_rtn_u32"),
        ("sub", "sub_rtn_u32"),
        ("smin", "min_rtn_i32"),
        ("smax", "max_rtn_i32"),
        ("umin", "min_rtn_u32"),
        ("umax", "max_rtn_u32"),
        ("and", "and_rtn_b32"),
        ("or", "or_rtn_b32"),
        ("xor", "xor_rtn_b32"),
        ("swap", "wrxchg_rtn_b32"),
        ("inc", "inc_rtn_u32"),
        ("dec", "dec_rtn_u32"),
    ];
    let mut v = Vec::new();
    for (name, ds) in table {
        let global = format!(
            "global_store_dwordx4 v0, v[4:7], s[10:11]\ns_waitcnt vmcnt(0)\n\
             global_atomic_{name} v20, v0, v8, s[10:11] sc0\ns_waitcnt vmcnt(0)\n\
             global_load_dword v17, v0, s[10:11]\ns_waitcnt vmcnt(0)\nv_mov_b32 v16, v20"
        );
        let local = format!(
            "ds_write_b128 v0, v[4:7]\ns_waitcnt lgkmcnt(0)\nds_{ds} v16, v0, v8\n\
             s_waitcnt lgkmcnt(0)\nds_read_b32 v17, v0"
        );
        let model = model_of(name);
        v.push(lane(&global, model));
        v.push(lane(&local, model));
    }
    v.extend(special_atomics());
    v
}

fn model_of(name: &str) -> fn(Quad, Quad, Quad) -> Quad {
    match name {
        "add" => |a, b, _| [a[0], a[0].wrapping_add(b[0]), 0, 0],
        "sub" => |a, b, _| [a[0], a[0].wrapping_sub(b[0]), 0, 0],
        "smin" => |a, b, _| [a[0], (a[0] as i32).min(b[0] as i32) as u32, 0, 0],
        "smax" => |a, b, _| [a[0], (a[0] as i32).max(b[0] as i32) as u32, 0, 0],
        "umin" => |a, b, _| [a[0], a[0].min(b[0]), 0, 0],
        "umax" => |a, b, _| [a[0], a[0].max(b[0]), 0, 0],
        "and" => |a, b, _| [a[0], a[0] & b[0], 0, 0],
        "or" => |a, b, _| [a[0], a[0] | b[0], 0, 0],
        "xor" => |a, b, _| [a[0], a[0] ^ b[0], 0, 0],
        "swap" => |a, b, _| [a[0], b[0], 0, 0],
        "inc" => |a, b, _| [a[0], if a[0] >= b[0] { 0 } else { a[0] + 1 }, 0, 0],
        _ => |a, b, _| [a[0], if a[0] == 0 || a[0] > b[0] { b[0] } else { a[0] - 1 }, 0, 0],
    }
}

fn special_atomics() -> Vec<Case> {
    let make = |op: &str, model| lane(&through_memory(op), model);
    let float = |op: &str, model| Case { compare: super::Compare::F32, ..make(op, model) };
    vec![
        // VMEM: data first, then comparand. The comparand matches in about half of the lanes.
        make(
            "v_and_b32 v20, 1, v12\nv_cmp_eq_u32 vcc, 1, v20\nv_mov_b32 v20, v8\n\
              v_cndmask_b32 v21, v9, v4, vcc\n\
              global_atomic_cmpswap v0, v[20:21], s[10:11]",
            |a, b, c| {
                let comparand = if c[0] & 1 == 1 { a[0] } else { b[1] };
                [if comparand == a[0] { b[0] } else { a[0] }, a[1], a[2], a[3]]
            },
        ),
        make("global_atomic_add_x2 v0, v[8:9], s[10:11]", |a, b, _| {
            let s = two(wide(a).wrapping_add(wide(b)));
            [s[0], s[1], a[2], a[3]]
        }),
        make("global_atomic_umax_x2 v0, v[8:9], s[10:11]", |a, b, _| {
            let s = two(wide(a).max(wide(b)));
            [s[0], s[1], a[2], a[3]]
        }),
        float("global_atomic_add_f32 v0, v8, s[10:11]", |a, b, _| {
            [(f(a[0]) + f(b[0])).to_bits(), a[1], a[2], a[3]]
        }),
        lane(
            "ds_write_b128 v0, v[4:7]\ns_waitcnt lgkmcnt(0)\nv_and_b32 v20, 1, v12\n\
              v_cmp_eq_u32 vcc, 1, v20\nv_cndmask_b32 v21, v9, v4, vcc\n\
              ds_cmpst_rtn_b32 v16, v0, v21, v8\ns_waitcnt lgkmcnt(0)\nds_read_b32 v17, v0",
            |a, b, c| {
                let comparand = if c[0] & 1 == 1 { a[0] } else { b[1] };
                [a[0], if comparand == a[0] { b[0] } else { a[0] }, 0, 0]
            },
        ),
        lane(
            "ds_write_b128 v0, v[4:7]\ns_waitcnt lgkmcnt(0)\nds_add_u64 v0, v[8:9]\n\
              s_waitcnt lgkmcnt(0)\nds_read_b64 v[16:17], v0",
            |a, b, _| two(wide(a).wrapping_add(wide(b))),
        ),
    ]
}

fn lds() -> Vec<Case> {
    let put = "ds_write_b128 v0, v[4:7]\ns_waitcnt lgkmcnt(0)\n";
    let make = |op: &str, model| lane(&format!("{put}{op}"), model);
    vec![
        make("ds_read_u8 v16, v0 offset:5", |a, _, _| one(a[1] >> 8 & 255)),
        make("ds_read_i8 v16, v0 offset:7", |a, _, _| one((a[1] >> 24) as i8 as u32)),
        make("ds_read_u16 v16, v0 offset:6", |a, _, _| one(a[1] >> 16)),
        make("ds_read_i16 v16, v0 offset:2", |a, _, _| one((a[0] >> 16) as i16 as u32)),
        make("v_mov_b32 v16, v8\nds_read_u16_d16_hi v16, v0 offset:2", |a, b, _| {
            one(b[0] & 0xffff | a[0] & 0xffff_0000)
        }),
        make("v_mov_b32 v16, v8\nds_read_u8_d16 v16, v0 offset:2", |a, b, _| {
            one(b[0] & 0xffff_0000 | a[0] >> 16 & 255)
        }),
        make("ds_read_b64 v[16:17], v0 offset:8", |a, _, _| [a[2], a[3], 0, 0]),
        make("ds_read_b96 v[16:18], v0", |a, _, _| [a[0], a[1], a[2], 0]),
        make("ds_read2_b32 v[16:17], v0 offset0:3 offset1:1", |a, _, _| [a[3], a[1], 0, 0]),
        make("ds_read2_b64 v[16:19], v0 offset0:1 offset1:0", |a, _, _| [a[2], a[3], a[0], a[1]]),
        make(
            "ds_write2_b32 v0, v8, v9 offset0:2 offset1:0\ns_waitcnt lgkmcnt(0)\n\
              ds_read_b128 v[16:19], v0",
            |a, b, _| [b[1], a[1], b[0], a[3]],
        ),
        make(
            "ds_write2st64_b32 v0, v8, v9 offset0:16 offset1:32\ns_waitcnt lgkmcnt(0)\n\
              ds_read2st64_b32 v[16:17], v0 offset0:32 offset1:16",
            |_, b, _| [b[1], b[0], 0, 0],
        ),
        make(
            "ds_write_b8 v0, v8 offset:3\nds_write_b16 v0, v9 offset:4\n\
              ds_write_b8_d16_hi v0, v8 offset:8\nds_write_b16_d16_hi v0, v9 offset:14\n\
              s_waitcnt lgkmcnt(0)\nds_read_b128 v[16:19], v0",
            |a, b, _| {
                [
                    a[0] & 0x00ff_ffff | b[0] << 24,
                    a[1] & 0xffff_0000 | b[1] & 0xffff,
                    a[2] & 0xffff_ff00 | b[0] >> 16 & 255,
                    a[3] & 0xffff | b[1] & 0xffff_0000,
                ]
            },
        ),
        make(
            "ds_write_b64 v0, v[8:9] offset:8\ns_waitcnt lgkmcnt(0)\nds_read_b128 v[16:19], v0",
            |a, b, _| [a[0], a[1], b[0], b[1]],
        ),
        // Flat addresses of LDS.
        make(
            "s_mov_b64 s[20:21], src_shared_base\nv_mov_b32 v20, v0\nv_mov_b32 v21, s21\n\
              flat_load_dwordx2 v[16:17], v[20:21] offset:4",
            |a, _, _| [a[1], a[2], 0, 0],
        ),
    ]
}

/// Lane addresses are 8 (or 12) bytes apart, so lane `j` of 16 supplies its part of a row.
fn transposes() -> Vec<Case> {
    let make = |op: &str, model| {
        let text = format!(
            "ds_write_b128 v0, v[4:7]\ns_waitcnt lgkmcnt(0)\n\
             {op}\ns_waitcnt lgkmcnt(0)"
        );
        wave(&text, model)
    };
    fn row(a: &Wave, l: usize, n: usize) -> Vec<u8> {
        bytes(a)[16 * l..16 * l + n].to_vec()
    }
    vec![
        // Lane j receives column j of four rows; row j/4 lies in lanes 4·row..4·row+3.
        make("ds_read_b64_tr_b16 v[16:17], v0", |a, _, _| {
            std::array::from_fn(|l| {
                let (g, q) = (l & !15, l & 15);
                let h = |n: usize| {
                    let r = row(a, g + 4 * n + q / 4, 8);
                    le(&r[2 * (q % 4)..2 * (q % 4) + 2])
                };
                [h(0) | h(1) << 16, h(2) | h(3) << 16, 0, 0]
            })
        }),
        // Eight rows of two lanes each.
        make("ds_read_b64_tr_b8 v[16:17], v0", |a, _, _| {
            std::array::from_fn(|l| {
                let (g, q) = (l & !15, l & 15);
                let b: Vec<u8> = (0..8).map(|n| row(a, g + 2 * n + q / 8, 8)[q % 8]).collect();
                [le(&b[..4]), le(&b[4..]), 0, 0]
            })
        }),
        // Sixteen rows of one lane each.
        make("ds_read_b64_tr_b4 v[16:17], v0", |a, _, _| {
            std::array::from_fn(|l| {
                let (g, q) = (l & !15, l & 15);
                let nib = |n: usize| u32::from(row(a, g + n, 8)[q / 2] >> (4 * (q % 2)) & 15);
                let half = |from: usize| (0..8).fold(0, |m, n| m | nib(from + n) << (4 * n));
                [half(0), half(8), 0, 0]
            })
        }),
        make("ds_read_b96_tr_b6 v[16:18], v0", |a, _, _| {
            std::array::from_fn(|l| {
                let (g, q) = (l & !15, l & 15);
                let code = |n: usize| {
                    let r = row(a, g + n, 12);
                    (0..6).fold(0u128, |m, b| {
                        let at = 6 * q + b;
                        m | u128::from(r[at / 8] >> (at % 8) & 1) << b
                    })
                };
                let all = (0..16).fold(0u128, |m, n| m | code(n) << (6 * n));
                [all as u32, (all >> 32) as u32, (all >> 64) as u32, 0]
            })
        }),
    ]
}

#[test]
fn memory_instructions() {
    for cases in [loads(), stores(), atomics(), lds(), transposes()] {
        check(&cases);
    }
}
