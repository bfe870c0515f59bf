// A bitonic sorting network (Batcher 1968) over keys and places, descending by key and then ascending by place; in the
// stretches that `up` marks the other way round. Whether two elements must change places:
fn out_of_order(key: u32, place: u32, other_key: u32, other_place: u32, up: bool) -> bool {
    let before = key > other_key || (key == other_key && place < other_place);
    let same = key == other_key && place == other_place;
    return !same && before == up;
}
