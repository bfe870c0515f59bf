// A dispatch has at most 65535 workgroups per dimension: long ones fold over x and y.
fn group_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
