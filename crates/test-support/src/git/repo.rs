//! Bare repositories, commit by commit.

use std::path::{Path, PathBuf};

use git2::build::TreeUpdateBuilder;
use git2::{FileMode, ObjectType, Oid, Repository, RepositoryInitOptions, Signature, Time};

/// A bare repository.
pub struct Repo {
    path: PathBuf,
    inner: Repository,
}

/// What a file of a commit is.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// A plain file.
    File(&'a str),
    /// An executable file.
    Script(&'a str),
    /// A symbolic link to a target.
    Link(&'a str),
    /// A submodule at a commit.
    Submodule(&'a str),
}

impl Repo {
    /// Creates an empty repository with `main` as its default branch.
    ///
    /// # Panics
    /// The path cannot be used.
    #[must_use]
    pub fn create(path: &Path) -> Repo {
        let mut options = RepositoryInitOptions::new();
        options.bare(true).mkpath(true).external_template(false).initial_head("main");
        let inner = Repository::init_opts(path, &options).expect("a new repository");
        Repo { path: path.to_owned(), inner }
    }

    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a commit with these files, and no others, to `branch`; returns its id.
    ///
    /// # Panics
    /// The disk refuses.
    pub fn commit(&self, branch: &str, files: &[(&str, Content<'_>)]) -> String {
        let mut builder = TreeUpdateBuilder::new();
        for (path, content) in files {
            let (text, mode) = match content {
                Content::Submodule(commit) => {
                    builder.upsert(*path, Oid::from_str(commit).expect("a commit id"), FileMode::Commit);
                    continue;
                }
                Content::File(text) => (text, FileMode::Blob),
                Content::Script(text) => (text, FileMode::BlobExecutable),
                Content::Link(target) => (target, FileMode::Link),
            };
            let blob = self.inner.blob(text.as_bytes()).expect("a blob");
            builder.upsert(*path, blob, mode);
        }
        let empty = self.inner.treebuilder(None).and_then(|builder| builder.write()).expect("the empty tree");
        let empty = self.inner.find_tree(empty).expect("just written");
        let tree = builder.create_updated(&self.inner, &empty).expect("a tree");
        self.commit_tree(branch, tree)
    }

    /// Adds a commit whose tree has exactly these raw entries, checked by nothing.
    ///
    /// # Panics
    /// The disk refuses.
    pub fn commit_raw(&self, branch: &str, entries: &[(&str, &str, &str)]) -> String {
        let mut bytes = Vec::new();
        for (mode, name, content) in entries {
            let id = match *mode {
                "160000" => Oid::from_str(content).expect("a commit id"),
                "40000" => self.raw_tree(&[("100644", content, "x")]),
                _ => self.inner.blob(content.as_bytes()).expect("a blob"),
            };
            bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            bytes.extend_from_slice(id.as_bytes());
        }
        let tree = self.inner.odb().and_then(|odb| odb.write(ObjectType::Tree, &bytes)).expect("a tree");
        self.commit_tree(branch, tree)
    }

    fn raw_tree(&self, entries: &[(&str, &str, &str)]) -> Oid {
        let mut bytes = Vec::new();
        for (mode, name, content) in entries {
            let blob = self.inner.blob(content.as_bytes()).expect("a blob");
            bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            bytes.extend_from_slice(blob.as_bytes());
        }
        self.inner.odb().and_then(|odb| odb.write(ObjectType::Tree, &bytes)).expect("a tree")
    }

    fn commit_tree(&self, branch: &str, tree: Oid) -> String {
        let name = format!("refs/heads/{branch}");
        let parent = self.inner.find_reference(&name).ok().and_then(|reference| reference.target());
        // Text rather than libgit2's own call, which would judge the tree.
        let mut text = format!("tree {tree}\n");
        if let Some(parent) = parent {
            text.push_str(&format!("parent {parent}\n"));
        }
        text.push_str("author test <test@localhost> 1700000000 +0000\n");
        text.push_str("committer test <test@localhost> 1700000000 +0000\n\ntest\n");
        let id = self.inner.odb().and_then(|odb| odb.write(ObjectType::Commit, text.as_bytes())).expect("a commit");
        self.inner.reference(&name, id, true, "test").expect("a branch");
        id.to_string()
    }

    /// Creates or moves a branch.
    ///
    /// # Panics
    /// The commit does not exist.
    pub fn branch(&self, name: &str, commit: &str) {
        let id = Oid::from_str(commit).expect("a commit id");
        self.inner.reference(&format!("refs/heads/{name}"), id, true, "test").expect("a branch");
    }

    /// Returns the commit of a branch.
    ///
    /// # Panics
    /// There is no such branch.
    #[must_use]
    pub fn tip(&self, branch: &str) -> String {
        self.inner.refname_to_id(&format!("refs/heads/{branch}")).expect("a branch").to_string()
    }

    /// Creates or moves a lightweight tag.
    ///
    /// # Panics
    /// The commit does not exist.
    pub fn tag(&self, name: &str, commit: &str) {
        let id = Oid::from_str(commit).expect("a commit id");
        self.inner.reference(&format!("refs/tags/{name}"), id, true, "test").expect("a tag");
    }

    /// Creates an annotated tag; returns the id of the tag object.
    ///
    /// # Panics
    /// The commit does not exist.
    pub fn annotate(&self, name: &str, commit: &str) -> String {
        let id = Oid::from_str(commit).expect("a commit id");
        let object = self.inner.find_object(id, None).expect("an object");
        let who = Signature::new("test", "test@localhost", &Time::new(1_700_000_000, 0)).expect("a signature");
        self.inner.tag(name, &object, &who, "test", true).expect("a tag").to_string()
    }
}
