//! What refers to what: every distinct tree and list, read once, and whether what they refer to is there and as they say.
//!
//! | what is wrong | where it is noted | who is `dirty` for it |
//! |---|---|---|
//! | an object is missing, cannot be read, or is no valid tree or list | `problems` | itself, or what refers to it as a blob |
//! | a tree says of another tree that it has other files than it has | `problems`, of the tree that says so | the same |
//! | a blob or list is whole, and an entry or line says another length | `mismatches` | what holds that entry or line |
//! | a ref says another total than its tree | `wrong_refs` | none: everything restores |
//!
//! Who is above something dirty is found out only where there is damage, by [`super::locate`].
//!
//! # Memory
//!
//! Of each distinct tree and list its size is held, by the place where it stands; of each object that is needed a bit. What
//! was said about the size of a node that is yet to be read is kept until it was; nodes of which much was said are read
//! first. Names are kept of what is loose or damaged, and of lists of lists.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem;

use rayon::prelude::*;

use super::read::{Contents, Known, Stored};
use crate::error::{Error, ObjectProblem, Result};
use crate::object::{Content, EntryKind, ListId, ObjectId, Snapshot, Tree, TreeId};
use crate::repo::{PlaceSet, Recent, Repository};
use crate::store::packs::{Location, Near};

/// An object that refers to others, and how it is itself referred to. (The same bytes may be a tree to one entry and a
/// blob to another.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops) enum Node {
    /// The tree of a directory.
    Dir(TreeId),
    /// A tree that is a part of a large directory.
    Piece(TreeId),
    List {
        id: ListId,
        depth: u8,
    },
}

impl Node {
    pub(in crate::ops) fn id(self) -> ObjectId {
        match self {
            Self::Dir(id) | Self::Piece(id) => id.object(),
            Self::List { id, .. } => id.object(),
        }
    }
}

/// An object that is needed and not whole, as what refers to it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops) enum Wanted {
    Node(Node),
    /// A whole file or a chunk of one.
    Blob {
        id: ObjectId,
        length: u64,
        is_chunk: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum Referrer {
    /// The ref of the snapshot with this number.
    Snapshot(u64),
    Node(Node),
}

/// What is said of an object by something that refers to it.
#[derive(Debug, Clone, Copy)]
struct Reference {
    to: Target,
    /// How many bytes of file content are there, at and below it.
    size: u64,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Node(Node),
    Blob { id: ObjectId, is_chunk: bool },
}

impl Reference {
    fn to_dir(tree: TreeId, size: u64) -> Self {
        Self { to: Target::Node(Node::Dir(tree)), size }
    }

    fn to_content(content: Content, size: u64) -> Self {
        let to = match content {
            Content::Blob(blob) => Target::Blob { id: blob.object(), is_chunk: false },
            Content::Chunks { list, depth } => Target::Node(Node::List { id: list, depth }),
        };
        Self { to, size }
    }

    fn id(&self) -> ObjectId {
        match self.to {
            Target::Node(node) => node.id(),
            Target::Blob { id, .. } => id,
        }
    }
}

/// What a node says, and what is known of the objects that it refers to.
struct NodeContent {
    size: Size,
    references: Vec<(Reference, Known)>,
}

/// A node, and where it stands if that is known.
#[derive(Debug, Clone, Copy)]
struct Placed {
    node: Node,
    place: Option<Location>,
}

/// How far a node was read.
#[derive(Debug, Clone, Copy)]
enum Size {
    /// It will be.
    Pending,
    /// So many bytes of file content are at and below it.
    Is(u64),
    /// More than can be said of anything.
    TooMuch,
    /// It cannot be read.
    Unknown,
}

/// Something about each node, by the places where they stand as far as these are known.
#[derive(Debug)]
struct NodeMap<V> {
    dirs: HashMap<Location, V>,
    pieces: HashMap<Location, V>,
    /// Of chunks, that is of depth 1.
    lists: HashMap<Location, V>,
    apart: HashMap<Node, V>,
}

impl<V: Copy> NodeMap<V> {
    fn new() -> Self {
        Self { dirs: HashMap::new(), pieces: HashMap::new(), lists: HashMap::new(), apart: HashMap::new() }
    }

    fn get(&self, at: Placed) -> Option<V> {
        match (at.node, at.place) {
            (Node::Dir(_), Some(place)) => self.dirs.get(&place),
            (Node::Piece(_), Some(place)) => self.pieces.get(&place),
            (Node::List { depth: 1, .. }, Some(place)) => self.lists.get(&place),
            _ => self.apart.get(&at.node),
        }
        .copied()
    }

    fn set(&mut self, at: Placed, value: V) {
        match (at.node, at.place) {
            (Node::Dir(_), Some(place)) => self.dirs.insert(place, value),
            (Node::Piece(_), Some(place)) => self.pieces.insert(place, value),
            (Node::List { depth: 1, .. }, Some(place)) => self.lists.insert(place, value),
            _ => self.apart.insert(at.node, value),
        };
    }
}

/// Something that was said of a node that is yet to be read.
#[derive(Debug)]
struct Claim {
    from: Referrer,
    to: Placed,
    size: u64,
}

/// So many nodes are read at once, by all threads.
const READ_AT_ONCE: usize = 64;
/// When there are so many claims, and twice as many as could not be judged the last time, those are that can be.
const MANY_CLAIMS: usize = 1 << 14;

/// The references of all snapshots that were walked.
pub(in crate::ops) struct Graph<'a> {
    pub(super) repo: &'a Repository,
    contents: &'a Contents,
    /// What is known of usable objects that were referred to last and stand in one place.
    recent: Recent<(Stored, Location)>,
    /// What is needed: where it stands in packs, and by name what does not.
    needed: PlaceSet,
    needed_apart: HashSet<ObjectId>,
    /// What is needed and not whole.
    lacking: HashSet<Wanted>,
    sizes: NodeMap<Size>,
    claims: Vec<Claim>,
    /// How many claims could not be judged the last time.
    open_claims: usize,
    /// What is wrong with an object itself.
    problems: BTreeMap<ObjectId, ObjectProblem>,
    /// Objects that are whole, and of which something says otherwise than they are.
    mismatches: BTreeMap<ObjectId, String>,
    /// Snapshots whose ref says otherwise than their trees.
    wrong_refs: BTreeMap<u64, String>,
    /// The nodes that are damaged, or refer to a blob that is, or say otherwise of something than it is.
    dirty: HashSet<Node>,
    /// Whether every tree and list that is referred to could be read.
    is_complete: bool,
}

impl<'a> Graph<'a> {
    pub(in crate::ops) fn new(repo: &'a Repository, contents: &'a Contents) -> Self {
        let damaged = contents.reasons.iter().map(|(id, reason)| (*id, ObjectProblem::Damaged(reason.clone())));
        Self {
            repo,
            contents,
            recent: Recent::default(),
            needed: PlaceSet::default(),
            needed_apart: HashSet::new(),
            lacking: HashSet::new(),
            sizes: NodeMap::new(),
            claims: Vec::new(),
            open_claims: 0,
            problems: damaged.collect(),
            mismatches: BTreeMap::new(),
            wrong_refs: BTreeMap::new(),
            dirty: HashSet::new(),
            is_complete: true,
        }
    }

    /// Walks what a snapshot refers to and no snapshot before it did. Call it in the pool of threads that shall read.
    pub(in crate::ops) fn walk(&mut self, snapshot: &Snapshot) -> Result<()> {
        let from = Referrer::Snapshot(snapshot.number);
        let lists = snapshot.path_lists().map(|(size, content)| Reference::to_content(content, size));
        let mut pending = Vec::new();
        for reference in lists.chain([Reference::to_dir(snapshot.tree, snapshot.counts.bytes)]) {
            let known = self.contents.find(self.repo, reference.id())?;
            self.refer(from, reference, &known, &mut pending);
        }
        while !pending.is_empty() {
            self.repo.go_on()?;
            let nodes: Vec<Placed> = pending.split_off(pending.len().saturating_sub(READ_AT_ONCE));
            let contents: Vec<_> = nodes.par_iter().map(|at| self.read(at.node)).collect();
            for (at, content) in nodes.into_iter().zip(contents) {
                match content? {
                    Ok(content) => self.note(at, content, &mut pending)?,
                    Err(error) if error.is_interrupted() => return Err(error),
                    Err(error) => {
                        self.sizes.set(at, Size::Unknown);
                        self.is_complete = false;
                        self.blame(at.node, error);
                    }
                }
            }
            if self.claims.len() >= MANY_CLAIMS.max(2 * self.open_claims) {
                self.judge_claims();
                self.put_first_what_is_claimed(&mut pending);
            }
        }
        self.judge_claims();
        Ok(())
    }

    /// Reads a node, or says what is wrong with it. The outer error is none of the node's: what it refers to could not be
    /// looked up.
    fn read(&self, node: Node) -> Result<Result<NodeContent>> {
        let references = match self.references_of(node) {
            Ok(references) => references,
            Err(error) => return Ok(Err(error)),
        };
        let size = references.iter().try_fold(0_u64, |sum, reference| sum.checked_add(reference.size));
        let mut near = self.repo.packs()?.near();
        let find = |reference: Reference| Ok((reference, self.find(&reference, &mut near)?));
        let references = references.into_iter().map(find).collect::<Result<_>>()?;
        Ok(Ok(NodeContent { size: size.map_or(Size::TooMuch, Size::Is), references }))
    }

    fn find(&self, reference: &Reference, near: &mut Near<'_>) -> Result<Known> {
        let id = reference.id();
        match (self.recent.get(id), reference.to) {
            (Some((stored, place)), _) => Ok(Known { stored: Some(stored), places: vec![place] }),
            (None, Target::Blob { .. }) => self.contents.find_next(self.repo, near, id),
            (None, Target::Node(_)) => self.contents.find(self.repo, id),
        }
    }

    fn references_of(&self, node: Node) -> Result<Vec<Reference>> {
        Ok(match node {
            Node::Dir(id) | Node::Piece(id) => match self.repo.read_tree(id)? {
                Tree::Entries(entries) => {
                    let references = entries.into_iter().filter_map(|entry| match entry.kind {
                        EntryKind::File { size, content } => Some(Reference::to_content(content, size)),
                        EntryKind::Dir { size, tree } => Some(Reference::to_dir(tree, size)),
                        EntryKind::Symlink { .. } => None,
                    });
                    references.collect()
                }
                Tree::Pieces { pieces, .. } => {
                    let to = |tree| Target::Node(Node::Piece(tree));
                    pieces.into_iter().map(|piece| Reference { to: to(piece.tree), size: piece.size }).collect()
                }
            },
            Node::List { id, depth } => {
                let to = |id| match depth {
                    1 => Target::Blob { id, is_chunk: true },
                    _ => Target::Node(Node::List { id: ListId(id), depth: depth - 1 }),
                };
                let lines = self.repo.read_list(id)?;
                lines.into_iter().map(|line| Reference { to: to(line.id), size: line.length }).collect()
            }
        })
    }

    /// Notes what a node refers to.
    fn note(&mut self, at: Placed, content: NodeContent, pending: &mut Vec<Placed>) -> Result<()> {
        self.sizes.set(at, content.size);
        let mut has_pieces = false;
        for (reference, known) in content.references {
            has_pieces |= matches!(reference.to, Target::Node(Node::Piece(_)));
            self.refer(Referrer::Node(at.node), reference, &known, pending);
        }
        match at.node {
            Node::Dir(id) if has_pieces => self.read_large_directory(id),
            _ => Ok(()),
        }
    }

    /// Reads a directory of several pieces as a restore would: whether the pieces fit together is seen only so.
    fn read_large_directory(&mut self, id: TreeId) -> Result<()> {
        let errors: Vec<Error> = self.repo.entries(id).filter_map(Result::err).collect();
        for error in errors {
            if error.is_interrupted() {
                return Err(error);
            }
            let node = match &error {
                Error::Object { id: piece, .. } if *piece != id.object() => Node::Piece(TreeId(*piece)),
                _ => Node::Dir(id),
            };
            self.blame(node, error);
        }
        Ok(())
    }

    /// Notes that a node is not what it must be. An error of reading is one of the object that was to be read: the check
    /// goes on.
    fn blame(&mut self, node: Node, error: Error) {
        let (id, problem) = match error {
            Error::Object { id, problem } => (id, problem),
            other => (node.id(), ObjectProblem::Damaged(other.to_string())),
        };
        self.problems.entry(id).or_insert(problem);
        self.dirty.insert(node);
    }

    fn refer(&mut self, from: Referrer, reference: Reference, known: &Known, pending: &mut Vec<Placed>) {
        let id = reference.id();
        if known.places.is_empty() {
            self.needed_apart.insert(id);
        }
        for place in &known.places {
            self.needed.add(*place);
        }
        if let (Some(stored), [place], true) = (known.stored, &known.places[..], known.is_usable()) {
            self.recent.put(id, (stored, *place));
        }
        if known.stored.is_none() {
            self.problems.entry(id).or_insert(ObjectProblem::Missing);
        }
        match reference.to {
            Target::Node(node) => self.refer_to_node(from, node, reference.size, known, pending),
            Target::Blob { id, is_chunk } => self.refer_to_blob(from, id, is_chunk, reference.size, known),
        }
    }

    fn refer_to_node(&mut self, from: Referrer, node: Node, size: u64, known: &Known, pending: &mut Vec<Placed>) {
        if !known.is_usable() {
            self.is_complete = false;
            self.dirty.insert(node);
            self.lacking.insert(Wanted::Node(node));
            return;
        }
        let to = Placed { node, place: known.places.first().copied() };
        match self.sizes.get(to) {
            Some(Size::Pending) => self.claims.push(Claim { from, to, size }),
            Some(found) => self.judge(from, node, size, found),
            None => {
                self.sizes.set(to, Size::Pending);
                self.claims.push(Claim { from, to, size });
                pending.push(to);
            }
        }
    }

    fn refer_to_blob(&mut self, from: Referrer, id: ObjectId, is_chunk: bool, length: u64, known: &Known) {
        if has_length(known, length) {
            return;
        }
        match known.stored.and_then(Stored::length) {
            Some(stored) => {
                let reason = format!("it has {stored} bytes where {length} are referred to");
                self.mismatches.entry(id).or_insert(reason);
            }
            None => {
                self.lacking.insert(Wanted::Blob { id, length, is_chunk });
            }
        }
        if let Referrer::Node(node) = from {
            self.dirty.insert(node);
        }
    }

    /// Compares what was said of nodes with what they were read to be. What is said of those that are still to be read stays.
    fn judge_claims(&mut self) {
        for claim in mem::take(&mut self.claims) {
            match self.sizes.get(claim.to) {
                Some(Size::Pending) => self.claims.push(claim),
                found => self.judge(claim.from, claim.to.node, claim.size, found.unwrap_or(Size::Unknown)),
            }
        }
        self.open_claims = self.claims.len();
    }

    /// Nodes that many refer to may have to wait behind much else; then what was said of them would fill the memory.
    fn put_first_what_is_claimed(&self, pending: &mut [Placed]) {
        if self.claims.len() >= MANY_CLAIMS {
            let claimed: HashSet<Node> = self.claims.iter().map(|claim| claim.to.node).collect();
            // The last are read first.
            pending.sort_by_key(|at| claimed.contains(&at.node));
        }
    }

    fn judge(&mut self, from: Referrer, to: Node, said: u64, found: Size) {
        let found = match found {
            Size::Is(found) if found != said => found.to_string(),
            Size::TooMuch => "too many".to_string(),
            Size::Is(_) | Size::Pending | Size::Unknown => return,
        };
        // Who says something else is wrong, not what it is said of: others may refer to that rightly.
        let reason = format!("object {} has {found} bytes where {said} are referred to", to.id());
        match (from, to) {
            (Referrer::Snapshot(number), _) => {
                self.wrong_refs.insert(number, reason);
            }
            (Referrer::Node(from), Node::List { id, .. }) => {
                self.mismatches.insert(id.object(), reason);
                self.dirty.insert(from);
            }
            (Referrer::Node(from), Node::Dir(_) | Node::Piece(_)) => {
                self.problems.entry(from.id()).or_insert(ObjectProblem::Damaged(reason));
                self.dirty.insert(from);
            }
        }
    }

    /// Whether a list covers this many bytes, as far as it could be read.
    pub(super) fn covers(&self, node: Node, size: u64) -> Result<bool> {
        // The walk may have known less places.
        let mut places = self.contents.find(self.repo, node.id())?.places.into_iter().map(Some).chain([None]);
        Ok(match places.find_map(|place| self.sizes.get(Placed { node, place })) {
            Some(Size::Is(found)) => found == size,
            Some(Size::TooMuch) => false,
            Some(Size::Pending | Size::Unknown) | None => true,
        })
    }

    /// Whether a blob is stored, whole as far as it was read, and of this length as far as that is known.
    /// `near` is where the last one was found that was asked for.
    pub(super) fn holds_blob(&self, near: &mut Near<'_>, id: ObjectId, length: u64) -> Result<bool> {
        Ok(has_length(&self.contents.find_next(self.repo, near, id)?, length))
    }

    /// Whether every tree and list that is referred to could be read.
    pub(in crate::ops) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether the walk has met no damage.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.lacking.is_empty() && self.mismatches.is_empty() && self.wrong_refs.is_empty()
    }

    /// Whether any snapshot that was walked refers to the object. Also if that cannot be found out.
    pub(in crate::ops) fn needs(&self, id: &ObjectId) -> bool {
        let is_marked = |known: Known| known.places.iter().any(|place| self.needed.has(*place));
        self.needed_apart.contains(id) || self.contents.find(self.repo, *id).map_or(true, is_marked)
    }

    /// How many of the objects that are stored no snapshot refers to.
    pub(super) fn unneeded(&self) -> u64 {
        self.contents.unneeded(&self.needed, |id| self.needed_apart.contains(id))
    }

    /// What is needed and not whole. An object can be wanted as several things.
    pub(in crate::ops) fn wanted(&self) -> Vec<Wanted> {
        self.lacking.iter().copied().collect()
    }

    /// Whether a node is damaged, or refers to a blob that is, or says otherwise of something than it is.
    pub(super) fn is_dirty(&self, node: Node) -> bool {
        self.dirty.contains(&node)
    }

    /// What is wrong with an object, if anything is.
    pub(super) fn problem(&self, id: ObjectId) -> Option<&ObjectProblem> {
        self.problems.get(&id)
    }

    /// Every damaged or missing object, and every one that is not what is said of it.
    pub(super) fn problems(&self) -> BTreeMap<ObjectId, ObjectProblem> {
        let mismatches = self.mismatches.iter().map(|(id, reason)| (*id, ObjectProblem::Damaged(reason.clone())));
        let mut all: BTreeMap<_, _> = mismatches.collect();
        all.extend(self.problems.iter().map(|(id, problem)| (*id, problem.clone())));
        all
    }

    /// The numbers of the snapshots whose ref says otherwise than their trees, and how.
    pub(super) fn wrong_refs(&self) -> impl Iterator<Item = (u64, &str)> {
        self.wrong_refs.iter().map(|(number, reason)| (*number, reason.as_str()))
    }
}

fn has_length(known: &Known, length: u64) -> bool {
    known.is_usable() && known.stored.and_then(Stored::length).is_none_or(|stored| stored == length)
}
