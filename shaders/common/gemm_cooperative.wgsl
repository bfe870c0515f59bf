// C = A·B by tiles of 64 × 64 through the device's cooperative matrices: eight subgroups of 32, each with 16 × 32 of the
// tile. What the kernel defines is as for common/gemm.wgsl. EIGHT: matrices are 8 × 8 of f32, which hold every element
// type; else 16 × 16 of f16 with sums in f32, for operands that are f16: no product takes them yet. Native alone, and only
// where a product was right when the device was opened: TURNED says which of two readings of a row-major tile the driver's translation has.
#include "common/invocation.wgsl"
#const A_BY_K = true
#const B_BY_K = true
#const EIGHT = true
#const TURNED = true
#enable wgpu_cooperative_matrix
#if EIGHT
#const EDGE = 8u
#const TILE_ROWS = 2u
#const TILE_COLS = 4u
alias Element = f32;
alias Left = coop_mat8x8<f32, A>;
alias Right = coop_mat8x8<f32, B>;
alias Sums = coop_mat8x8<f32, C>;
#else
#enable f16
#const EDGE = 16u
#const TILE_ROWS = 1u
#const TILE_COLS = 2u
alias Element = f16;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;
#end
const DEPTH = 16u;

// 64 rows of A and 64 columns of B, row by row.
var<workgroup> a_tile: array<Element, 64u * DEPTH>;
var<workgroup> b_tile: array<Element, 64u * DEPTH>;
// A matrix of each subgroup, on its way out.
var<workgroup> c_tile: array<f32, 8u * EDGE * EDGE>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, here: Invocation) {
    begin(group.z);
    let row0 = (p.row_tile + group.y) * 64u;
    let col0 = group.x * 64u;
    // Of smaller subgroups there were more: the product is wrong then, which its trial finds, and stays within its arrays.
    let team = min(here.subgroup, 7u);
    let team_row = team / 2u * 16u;
    let team_col = team % 2u * 32u;
    #repeat r TILE_ROWS
    #repeat c TILE_COLS
    var sums_$r_$c = Sums();
    #end
    #end
    for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
        for (var t = here.local; t < 64u * DEPTH; t += 256u) {
            let row = select(t % 64u, t / DEPTH, A_BY_K);
            let ka = select(t / 64u, t % DEPTH, A_BY_K);
            var a = 0.0;
            if (row0 + row < p.m && k0 + ka < p.k) {
                a = a_at(row0 + row, k0 + ka);
            }
            a_tile[row * DEPTH + ka] = Element(a);
            let col = select(t % 64u, t / DEPTH, B_BY_K);
            let kb = select(t / 64u, t % DEPTH, B_BY_K);
            var b = 0.0;
            if (col0 + col < p.n && k0 + kb < p.k) {
                b = b_at(k0 + kb, col0 + col);
            }
            b_tile[kb * 64u + col] = Element(b);
        }
        workgroupBarrier();
        for (var kk = 0u; kk < DEPTH; kk += EDGE) {
            #if TURNED
            #repeat r TILE_ROWS
            let left_$r = coopLoadT<Left>(&a_tile[(team_row + $ru * EDGE) * DEPTH + kk], DEPTH);
            #end
            #repeat c TILE_COLS
            let right_$c = coopLoadT<Right>(&b_tile[kk * 64u + team_col + $cu * EDGE], 64u);
            #end
            #else
            #repeat r TILE_ROWS
            let left_$r = coopLoad<Left>(&a_tile[(team_row + $ru * EDGE) * DEPTH + kk], DEPTH);
            #end
            #repeat c TILE_COLS
            let right_$c = coopLoad<Right>(&b_tile[kk * 64u + team_col + $cu * EDGE], 64u);
            #end
            #end
            #repeat r TILE_ROWS
            #repeat c TILE_COLS
            sums_$r_$c = coopMultiplyAdd(left_$r, right_$c, sums_$r_$c);
            #end
            #end
        }
        workgroupBarrier();
    }
    let mine = team * EDGE * EDGE;
    #repeat r TILE_ROWS
    #repeat c TILE_COLS
    #if TURNED
    coopStoreT(sums_$r_$c, &c_tile[mine], EDGE);
    #else
    coopStore(sums_$r_$c, &c_tile[mine], EDGE);
    #end
    workgroupBarrier();
    put_matrix(here, mine, group.z, row0 + team_row + $ru * EDGE, col0 + team_col + $cu * EDGE);
    workgroupBarrier();
    #end
    #end
}

// The matrix that lies in c_tile from `mine` on is that from row `row` and column `first` on.
fn put_matrix(here: Invocation, mine: u32, batch: u32, row: u32, first: u32) {
    for (var e = here.lane * Y_LANES; e < EDGE * EDGE; e += here.lanes * Y_LANES) {
        let r = row + e / EDGE;
        let col = first + e % EDGE;
        if (r < p.m && col < p.n) {
            let n = min(Y_LANES, p.n - col);
            var v: array<f32, Y_LANES>;
            for (var l = 0u; l < n; l++) {
                v[l] = finish(r, col + l, c_tile[mine + e + l]);
            }
            put_lanes_y((batch * p.m + r) * p.ldc + p.first + col, v, n);
        }
    }
}
