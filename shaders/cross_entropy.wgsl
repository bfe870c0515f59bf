// loss[r] = ln Σ exp(logits[r]) − logits[r, labels[r]] and lse[r] = ln Σ exp(logits[r]), a workgroup to a row; both 0
// where the label is p.ignore.
#include "common/math.wgsl"
#include "common/rows.wgsl"
struct Params { logits: View, labels: View, rows: u32, n: u32, ignore: i32, launch: u32 }
#params
#bind read logits
#view logits
#bind read labels: i32
#view labels
#bind write loss: f32
#bind write lse: f32
#fault

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    here: Invocation,
) {
    let local = here.local;
    let row = group_index(group, groups);
    if (row >= p.rows) {
        return;
    }
    var most = minus_infinity();
    for (var i = local; i < p.n; i += 256u) {
        let x = load_logits(at_logits(row * p.n + i));
        most = select(most, x, x > most);
    }
    most = row_max(here, most);
    // While all are −∞ their sum is 0 (or NaN if there is one), whatever is subtracted.
    let shift = select(most, 0.0, is_minus_infinity(most));
    var sum = 0.0;
    for (var i = local; i < p.n; i += 256u) {
        sum += exp_(load_logits(at_logits(row * p.n + i)) - shift);
    }
    sum = row_sum(here, sum);
    if (local != 0u) {
        return;
    }
    let label = load_labels(at_labels(row));
    var row_loss = 0.0;
    var row_lse = 0.0;
    if (label != p.ignore) {
        if (label < 0 || u32(label) >= p.n) {
            fault(bitcast<u32>(label), row);
        } else {
            let log_sum = ln_(sum);
            row_lse = most + log_sum;
            // Not lse − logit: where the label is the largest, its small loss keeps all its digits.
            row_loss = (most - load_logits(at_logits(row * p.n + u32(label)))) + log_sum;
        }
    }
    put_loss(row, row_loss);
    put_lse(row, row_lse);
}
