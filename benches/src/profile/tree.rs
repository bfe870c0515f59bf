//! Where the time went, as a tree: phases, the modules in them, their kernels and the time between.

use std::collections::HashMap;

use engine::profile::Recording;
use serde::Serialize;

use super::account::Slice;

/// What a node of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The whole recording.
    All,
    /// A phase.
    Phase,
    /// A module, its layers added up.
    Module,
    /// Kernels of one operation.
    Op,
    /// Time in no kernel.
    Gap,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// The last part of its path.
    pub name: String,
    /// Time in it and all below.
    pub ns: u64,
    /// What is below, in the order in which it first ran.
    pub children: Vec<Node>,
}

impl Node {
    fn new(kind: Kind, name: &str) -> Self {
        Self { kind, name: name.to_owned(), ns: 0, children: Vec::new() }
    }

    /// The child of this kind and name, made if it is not there.
    fn child(&mut self, kind: Kind, name: &str) -> &mut Self {
        let at = self.children.iter().position(|c| c.kind == kind && c.name == name);
        let at = at.unwrap_or_else(|| {
            self.children.push(Self::new(kind, name));
            self.children.len() - 1
        });
        &mut self.children[at]
    }

    /// How many rows of a picture it takes.
    pub fn depth(&self) -> usize {
        1 + self.children.iter().map(Self::depth).max().unwrap_or(0)
    }
}

/// The tree of a thread's slices.
pub(super) fn build(recording: &Recording, slices: &[Slice]) -> Node {
    // Few places have many slices: they are added up first.
    let mut order = Vec::new();
    let mut sums: HashMap<(u32, u32, Option<u32>), u64> = HashMap::new();
    for slice in slices {
        let key = (slice.phase, slice.module, slice.op);
        *sums.entry(key).or_insert_with(|| {
            order.push(key);
            0
        }) += slice.ns;
    }
    let mut root = Node::new(Kind::All, "all");
    for key in order {
        let (phase, module, op) = key;
        let ns = sums[&key];
        let mut node = &mut root;
        node.ns += ns;
        for name in parts(&recording.phases, phase, '/') {
            node = node.child(Kind::Phase, name);
            node.ns += ns;
        }
        let module = fold(recording.modules.get(module as usize).map_or("", String::as_str));
        for name in segments(&module) {
            node = node.child(Kind::Module, name);
            node.ns += ns;
        }
        let leaf = match op {
            Some(number) => node.child(Kind::Op, &recording.operations[number as usize].name),
            None => node.child(Kind::Gap, "no kernel"),
        };
        leaf.ns += ns;
    }
    // The gap of a node is its last child, whenever it came.
    settle(&mut root);
    root
}

fn settle(node: &mut Node) {
    node.children.sort_by_key(|child| child.kind == Kind::Gap);
    node.children.iter_mut().for_each(settle);
}

fn parts(texts: &[String], number: u32, separator: char) -> impl Iterator<Item = &str> {
    let path = texts.get(number as usize).map_or("", String::as_str);
    path.split(separator).filter(|part| !part.is_empty())
}

/// `model.layers.3.mlp` as `model.layers.*.mlp`.
pub(super) fn fold(path: &str) -> String {
    let fold = |part| if is_number(part) { "*" } else { part };
    path.split('.').map(fold).collect::<Vec<_>>().join(".")
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

/// The module and those that it is in, outermost first. Layers that are added up are one with their list: `layers.*`.
pub(super) fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let dots = path.match_indices('.').map(|(at, _)| at).filter(|&at| !is_star(&path[at + 1..]));
    dots.chain([path.len()]).map(|at| &path[..at]).filter(|path| !path.is_empty())
}

/// Whether a path begins with layers that are added up.
fn is_star(path: &str) -> bool {
    path == "*" || path.starts_with("*.")
}

/// The parts of a path, each a level.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    prefixes(path).map(last)
}

/// The last part of a path.
pub(super) fn last(path: &str) -> &str {
    path[parent(path).len()..].trim_start_matches('.')
}

/// The module that another is in; empty for the outermost.
pub(super) fn parent(path: &str) -> &str {
    path.strip_suffix(".*").unwrap_or(path).rsplit_once('.').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::account::slices;
    use crate::profile::trace::tests::invented;

    #[test]
    fn paths_come_apart() {
        assert_eq!(fold("model.layers.30.mlp"), "model.layers.*.mlp");
        assert_eq!(fold("v2.head"), "v2.head");
        assert_eq!(prefixes("a.b.c").collect::<Vec<_>>(), ["a", "a.b", "a.b.c"]);
        assert_eq!(prefixes("").count(), 0);
        assert_eq!((parent("a.b.c"), parent("a")), ("a.b", ""));
        assert_eq!(prefixes("a.layers.*.b").collect::<Vec<_>>(), ["a", "a.layers.*", "a.layers.*.b"]);
        assert_eq!(segments("a.layers.*.b").collect::<Vec<_>>(), ["a", "layers.*", "b"]);
        assert_eq!((parent("a.layers.*"), last("a.layers.*"), last("a")), ("a", "layers.*", "a"));
    }

    #[test]
    fn a_node_has_the_time_of_its_children() {
        fn check(node: &Node) {
            if !node.children.is_empty() {
                assert_eq!(node.ns, node.children.iter().map(|c| c.ns).sum::<u64>(), "{}", node.name);
            }
            node.children.iter().for_each(check);
        }
        let recording = invented();
        let tree = build(&recording, &slices(&recording, 0));
        assert_eq!(tree.ns, recording.end - recording.start);
        check(&tree);
    }
}
