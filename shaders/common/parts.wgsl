// Thin products cut in PARTS along k: workgroups of z = part take one each, split_sum.wgsl adds them up in order.
#const PARTS = 1u

// Where a part begins, and the one before it ends.
fn part_begin(part: u32, k: u32) -> u32 {
    if (PARTS == 1u) {
        return part * k;
    }
    return min(part * ((k + PARTS * 64u - 1u) / (PARTS * 64u) * 64u), k);
}

// Of a workgroup's z, what is the part and what the batch: several parts are of one matrix alone.
fn part_of(z: u32) -> u32 {
    return select(0u, z, PARTS > 1u);
}

fn batch_of(z: u32) -> u32 {
    return select(z, 0u, PARTS > 1u);
}
