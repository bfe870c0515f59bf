// C = A·B by tiles of 64·ROW_QUADS × 64·COL_QUADS: 16×16 invocations, each with 4×4 sums or a multiple; A and B go by way
// of workgroup memory.
//
// The kernel defines
//   fn begin(batch: u32)                      chooses the matrices of this batch
//   fn a_at(row: u32, k: u32) -> f32          an element that exists
//   fn b_at(k: u32, col: u32) -> f32
//   fn finish(row: u32, col: u32, sum: f32) -> f32
// and binds the output y, row-major with rows of p.ldc elements, of which columns p.first.. are this launch's (or that begins at p.first).
// Where A_OCT or B_OCT is set, eight neighbours along k are loaded together, and p.k divides by eight:
//   fn a_oct(row: u32, k: u32) -> Oct, fn b_oct(k: u32, col: u32) -> Oct
// Parameters: p.m, p.n, p.k, p.ldc, p.first, p.row_tile (the row of tiles that the grid begins with). Where there are PARTS, y is f32 [PARTS, m, n].
#include "common/parts.wgsl"

// Whether neighbours along k lie side by side in memory: which way invocations walk while they load.
#const A_BY_K = true
#const B_BY_K = true
#const A_OCT = false
#const B_OCT = false
// Quads of rows and of columns of an invocation.
#const ROW_QUADS = 1u
#const COL_QUADS = 1u
// Columns of A and rows of B in workgroup memory.
#const DEPTH = 16u
const ROWS16 = 16u * ROW_QUADS;
const COLS16 = 16u * COL_QUADS;

// At each k the quads of the tile's rows or columns.
var<workgroup> a_tile: array<vec4<f32>, ROWS16 * DEPTH>;
var<workgroup> b_tile: array<vec4<f32>, COLS16 * DEPTH>;

// Rows row .. row + 3 of A at one k; 0 beyond the matrix.
fn a_quad(row: u32, k: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if (k < p.k) {
        for (var i = 0u; i < 4u; i++) {
            if (row + i < p.m) {
                v[i] = a_at(row + i, k);
            }
        }
    }
    return v;
}

fn b_quad(k: u32, col: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if (k < p.k) {
        for (var i = 0u; i < 4u; i++) {
            if (col + i < p.n) {
                v[i] = b_at(k, col + i);
            }
        }
    }
    return v;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    begin(batch_of(group.z));
    let end = part_begin(part_of(group.z) + 1u, p.k);
    let row0 = (p.row_tile + group.y) * 4u * ROWS16;
    let col0 = group.x * 4u * COLS16;
    let tx = local % 16u;
    let ty = local / 16u;
    // sum_rI_C: four columns of row I.
    #repeat r ROW_QUADS
    #repeat i 4
    #repeat c COL_QUADS
    var sum_$r$i_$c = vec4<f32>();
    #end
    #end
    #end
    for (var k0 = part_begin(part_of(group.z), p.k); k0 < end; k0 += DEPTH) {
        if (A_OCT) {
            // Four rows at a time: an invocation writes whole quads.
            for (var t = local; t < ROWS16 * DEPTH / 8u; t += 256u) {
                let kk = t % (DEPTH / 8u) * 8u;
                let q = t / (DEPTH / 8u);
                #repeat i 4
                var v$i = Oct();
                if (row0 + 4u * q + $iu < p.m && k0 + kk < p.k) {
                    v$i = a_oct(row0 + 4u * q + $iu, k0 + kk);
                }
                #end
                let at = kk * ROWS16 + q;
                #repeat i 4
                a_tile[at + $iu * ROWS16] = vec4<f32>(v0.lo[$i], v1.lo[$i], v2.lo[$i], v3.lo[$i]);
                a_tile[at + ($iu + 4u) * ROWS16] = vec4<f32>(v0.hi[$i], v1.hi[$i], v2.hi[$i], v3.hi[$i]);
                #end
            }
        } else {
            for (var t = local; t < ROWS16 * DEPTH; t += 256u) {
                let kk = select(t / ROWS16, t % DEPTH, A_BY_K);
                let q = select(t % ROWS16, t / DEPTH, A_BY_K);
                a_tile[kk * ROWS16 + q] = a_quad(row0 + 4u * q, k0 + kk);
            }
        }
        if (B_OCT) {
            // By the invocations that had no part of A. A loop: what `b_oct` does may be long.
            for (var t = 255u - local; t < COLS16 * DEPTH / 8u; t += 256u) {
                let kk = t % (DEPTH / 8u) * 8u;
                let q = t / (DEPTH / 8u);
                var v: array<Oct, 4>;
                for (var i = 0u; i < 4u; i++) {
                    if (col0 + 4u * q + i < p.n && k0 + kk < p.k) {
                        v[i] = b_oct(k0 + kk, col0 + 4u * q + i);
                    }
                }
                let at = kk * COLS16 + q;
                #repeat i 4
                b_tile[at + $iu * COLS16] = vec4<f32>(v[0].lo[$i], v[1].lo[$i], v[2].lo[$i], v[3].lo[$i]);
                b_tile[at + ($iu + 4u) * COLS16] = vec4<f32>(v[0].hi[$i], v[1].hi[$i], v[2].hi[$i], v[3].hi[$i]);
                #end
            }
        } else {
            for (var t = local; t < COLS16 * DEPTH; t += 256u) {
                let kk = select(t / COLS16, t % DEPTH, B_BY_K);
                let q = select(t % COLS16, t / DEPTH, B_BY_K);
                b_tile[kk * COLS16 + q] = b_quad(k0 + kk, col0 + 4u * q);
            }
        }
        workgroupBarrier();
        for (var kk = 0u; kk < DEPTH; kk++) {
            #repeat c COL_QUADS
            let b$c = b_tile[kk * COLS16 + $cu * 16u + tx];
            #end
            #repeat r ROW_QUADS
            let a$r = a_tile[kk * ROWS16 + $ru * 16u + ty];
            #repeat i 4
            #repeat c COL_QUADS
            sum_$r$i_$c += a$r[$i] * b$c;
            #end
            #end
            #end
        }
        workgroupBarrier();
    }
    #repeat r ROW_QUADS
    #repeat i 4
    #repeat c COL_QUADS
    store_quad(group.z, row0 + $ru * 64u + 4u * ty + $iu, col0 + $cu * 64u + 4u * tx, sum_$r$i_$c);
    #end
    #end
    #end
}

fn store_quad(batch: u32, row: u32, col: u32, sums: vec4<f32>) {
    if (row >= p.m) {
        return;
    }
    let at = (batch * p.m + row) * p.ldc + p.first;
    for (var j = 0u; j < 4u; j += Y_LANES) {
        if (col + j < p.n) {
            let n = min(Y_LANES, p.n - col - j);
            var v: array<f32, Y_LANES>;
            for (var l = 0u; l < n; l++) {
                v[l] = finish(row, col + j + l, sums[j + l]);
            }
            put_lanes_y(at + col + j, v, n);
        }
    }
}
