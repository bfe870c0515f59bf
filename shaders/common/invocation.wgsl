// What an invocation of a workgroup of 256 knows of its place there. SUBGROUPS: the device has them, of 4 to 128
// invocations, whole ones; of how many it asks while it runs. Nothing of it is uniform to a compiler: no barrier and no
// subgroup operation may hang on it.
#const SUBGROUPS = false
#if SUBGROUPS
struct Invocation {
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
}
#else
struct Invocation {
    @builtin(local_invocation_index) local: u32,
}
#end
