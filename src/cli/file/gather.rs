//! Which files a configuration is made of: those that are named, those of directories, and what they include.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use super::{Content, Footprint, Pipe, Stat, directory, open, read_at_most, sorted};
use crate::cli::Failure;
use crate::config::{self, MAX_FILE_BYTES, MAX_FILES, MAX_INCLUDE_DEPTH};

/// What paths lead to: each file with its name and its bytes, or one byte more than all of them may have.
pub(in crate::cli) struct Texts {
    files: Vec<(String, Vec<u8>)>,
    /// It is one file alone, and no part of a directory.
    is_alone: bool,
}

impl Texts {
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }

    /// The only file, where no directory was named.
    pub(super) fn alone(&self) -> Option<&(String, Vec<u8>)> {
        self.files.first().filter(|_| self.is_alone)
    }
}

/// Reads the jobs files, or those of directories, at `paths`, and all that they include.
pub(super) fn texts(paths: &[PathBuf], pipe: Pipe, noted: &RefCell<Footprint>) -> Result<Texts, Failure> {
    let mut gathering =
        Gathering { files: Vec::new(), left: MAX_FILE_BYTES, known: HashSet::new(), above: Vec::new(), pipe, noted };
    let mut is_alone = true;
    for path in paths {
        if path.is_dir() {
            is_alone = false;
            gathering.add_directory(path)?;
        } else {
            gathering.add(path, By::Name)?;
        }
    }
    let files = gathering.files;
    Ok(Texts { is_alone: is_alone && files.len() == 1, files })
}

/// What leads to a file.
#[derive(Clone, Copy)]
enum By<'a> {
    Name,
    Directory,
    /// The place of an `include`, like `a.yaml:3`.
    Include(&'a str),
}

struct Gathering<'f> {
    files: Vec<(String, Vec<u8>)>,
    /// How many bytes the files to come may have.
    left: usize,
    /// The files that were read, by where they really are: one that is named twice is read once.
    known: HashSet<PathBuf>,
    /// The files that include the one that is being read: where they really are, and how they are named.
    above: Vec<(PathBuf, String)>,
    pipe: Pipe,
    noted: &'f RefCell<Footprint>,
}

impl Gathering<'_> {
    /// Adds a file and those that it includes, unless they are there.
    fn add(&mut self, path: &Path, by: By) -> Result<(), Failure> {
        // What cannot be followed cannot be read either.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = path.display().to_string();
        self.check_above(&real, &name, by)?;
        if !self.known.insert(real.clone()) {
            return Ok(());
        }
        if self.files.len() == MAX_FILES {
            return Err(Failure::wrong(format!(
                "{name} is one file too many: a configuration has at most {MAX_FILES}"
            )));
        }
        let bytes = self.read(path, by)?;
        self.left = self.left.saturating_sub(bytes.len());
        let included = config::includes(&bytes);
        self.files.push((name.clone(), bytes));
        self.above.push((real, name.clone()));
        for include in included {
            let beside = path.parent().unwrap_or(Path::new("")).join(include.path);
            self.add(&beside, By::Include(&format!("{name}:{}", include.line)))?;
        }
        self.above.pop();
        Ok(())
    }

    /// A file that is reached through itself would be read for ever; one that is reached through very many is a mistake.
    fn check_above(&self, real: &Path, name: &str, by: By) -> Result<(), Failure> {
        let By::Include(place) = by else { return Ok(()) };
        if let Some(first) = self.above.iter().position(|(above, _)| above == real) {
            let mut chain: Vec<&str> = self.above[first..].iter().map(|(_, name)| name.as_str()).collect();
            chain.push(name);
            let chain = chain.join(" includes ");
            return Err(Failure::wrong(format!("{place}: `include` goes in a circle: {chain}: take one of them out")));
        }
        if self.above.len() > MAX_INCLUDE_DEPTH {
            let why = format!("{place}: files include each other over more than {MAX_INCLUDE_DEPTH} levels");
            return Err(Failure::wrong(why));
        }
        Ok(())
    }

    /// As many bytes as may still come, and one more at most.
    fn read(&self, path: &Path, by: By) -> Result<Vec<u8>, Failure> {
        let pipe = if matches!(by, By::Name) { self.pipe } else { Pipe::Refuse };
        let stat = Stat::of(path);
        let read = open(path).and_then(|file| read_at_most(file, self.left as u64 + 1, pipe));
        self.noted.borrow_mut().note(path, stat, Content::of(read.as_deref()));
        read.map_err(|error| {
            let file = path.display();
            Failure::wrong(match (by, error.kind()) {
                (By::Include(place), _) => format!("{place}: `include`: cannot read {file}: {error}"),
                (By::Name, io::ErrorKind::NotFound) => {
                    let how = "like `fencron run jobs.example.yaml`, or by --file where the command has it";
                    format!("cannot read {file}: {error}: name the jobs file, {how}")
                }
                _ => format!("cannot read {file}: {error}"),
            })
        })
    }

    /// Adds the jobs files that are directly in a directory.
    fn add_directory(&mut self, path: &Path) -> Result<(), Failure> {
        let names = self.listed(path)?;
        let mut names = names.iter().filter(|name| is_of_jobs(name)).peekable();
        if names.peek().is_none() {
            let path = path.display();
            return Err(Failure::wrong(format!("no jobs file is in {path}: it takes those that end in .yaml or .yml")));
        }
        names.try_for_each(|name| self.add(&path.join(name), By::Directory))
    }

    /// What is in a directory, sorted.
    fn listed(&self, path: &Path) -> Result<Vec<String>, Failure> {
        let stat = Stat::of(path);
        let listed = directory(path).map(Option::unwrap_or_default).map(sorted);
        let content = listed.as_ref().map_or(Content::Unreadable, |names| Content::Directory(names.clone()));
        self.noted.borrow_mut().note(path, stat, content);
        listed.map_err(|error| Failure::wrong(format!("cannot read {}: {error}", path.display())))
    }
}

/// Whether a name in a directory is that of a jobs file. What begins with a dot is not: Kubernetes keeps the versions of a
/// volume under such names, and editors their own files.
fn is_of_jobs(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::super::{Reading, look};
    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn with(files: &[(&str, &str)]) -> Dir {
            let dir = Dir(tempfile::tempdir().unwrap());
            files.iter().for_each(|(name, text)| dir.write(name, text));
            dir
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("version: 1\n{text}")).unwrap();
        }

        fn look(&self, names: &[&str]) -> Reading {
            let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
            look(&paths, Pipe::Wait)
        }

        /// The files that these lead to, in their order.
        fn files(&self, names: &[&str]) -> Vec<String> {
            let Reading { config, names, .. } = self.look(names);
            config.unwrap();
            names.iter().map(|name| self.shortened(name)).collect()
        }

        fn refuses(&self, names: &[&str]) -> String {
            self.shortened(&self.look(names).config.unwrap_err().to_string())
        }

        fn shortened(&self, text: &str) -> String {
            text.replace(&format!("{}/", self.0.path().display()), "")
        }
    }

    fn job(name: &str) -> String {
        format!("jobs:\n  {name}: {{schedule: '@daily', command: [x]}}\n")
    }

    #[test]
    fn files_are_read_once_each_in_the_order_in_which_they_are_met() {
        let dir = Dir::with(&[
            ("shared/base.yaml", "include: zones/closed.yaml\ndefaults: {timeout: 5m}\n"),
            ("shared/zones/closed.yaml", "calendars: {closed: {dates: [12-25]}}\n"),
            ("jobs.d/.hidden.yaml", "}"),
            ("jobs.d/notes.txt", "}"),
            ("jobs.d/a.yaml", &format!("include: [../shared/base.yaml]\n{}", job("a"))),
            ("jobs.d/b.yml", &format!("include: ../shared/../shared/base.yaml\n{}", job("b"))),
            ("more.yaml", &job("c")),
        ]);
        symlink("more.yaml", dir.path("again.yaml")).unwrap();
        let all = ["jobs.d/a.yaml", "jobs.d/../shared/base.yaml", "jobs.d/../shared/zones/closed.yaml"];
        let files = dir.files(&["jobs.d", "more.yaml", "again.yaml", "jobs.d/a.yaml"]);
        assert_eq!(files, [&all[..], &["jobs.d/b.yml", "more.yaml"]].concat());
        let config = dir.look(&["jobs.d", "more.yaml"]).config.unwrap();
        let limits = config.jobs.values().map(|job| job.timeout.map(|limit| limit.as_secs()));
        assert_eq!(limits.collect::<Vec<_>>(), [Some(300); 3], "defaults are of all files");
        // The digest is of what is in the files and of their order, however they are named.
        let one = dir.look(&["jobs.d/a.yaml", "more.yaml"]).config.unwrap().digest;
        assert_eq!(
            one,
            dir.look(&["./jobs.d/a.yaml", "again.yaml/../more.yaml"]).config.map_or(one.clone(), |c| c.digest)
        );
        assert_ne!(one, dir.look(&["more.yaml", "jobs.d/a.yaml"]).config.unwrap().digest);
        // A file that includes nothing, and is alone, has the digest that it always had.
        let bytes = fs::read(dir.path("more.yaml")).unwrap();
        let alone = config::from_bytes(&bytes, &config::Sources::none()).unwrap();
        assert_eq!(dir.look(&["more.yaml"]).config.unwrap().digest, alone.digest);
    }

    #[test]
    fn what_cannot_be_included_is_refused_with_the_line_of_the_include() {
        let dir = Dir::with(&[
            ("absent.yaml", "\ninclude:\n  - gone.yaml\njobs: {}\n"),
            ("directory.yaml", "include: d\njobs: {}\n"),
            ("pipe.yaml", "include: fifo\njobs: {}\n"),
            ("device.yaml", "include: /dev/zero\njobs: {}\n"),
            ("loop.yaml", "include: link\njobs: {}\n"),
            ("d/x.yaml", "jobs: {}\n"),
        ]);
        mkfifo(&dir.path("fifo"), Mode::S_IRWXU).unwrap();
        symlink("link", dir.path("link")).unwrap();
        for (name, why) in [
            ("absent.yaml", "absent.yaml:4: `include`: cannot read gone.yaml: No such file"),
            ("directory.yaml", "directory.yaml:2: `include`: cannot read d: it is no regular file"),
            ("pipe.yaml", "pipe.yaml:2: `include`: cannot read fifo: it is no regular file"),
            ("device.yaml", "device.yaml:2: `include`: cannot read /dev/zero: it is no regular file"),
            ("loop.yaml", "loop.yaml:2: `include`: cannot read link: Too many levels of symbolic links"),
        ] {
            let refused = dir.refuses(&[name]);
            assert!(refused.starts_with(why), "{name}: {refused}");
        }
        // A pipe in a directory would have every read wait.
        fs::rename(dir.path("fifo"), dir.path("d/fifo.yaml")).unwrap();
        assert_eq!(dir.refuses(&["d"]), "cannot read d/fifo.yaml: it is no regular file");
    }

    #[test]
    fn what_is_wrong_in_an_include_is_said_in_its_file() {
        for (text, why) in [
            ("include: [a.yaml, '']\n", "expected the path of a file, found an empty text"),
            ("include: '${HOME}/a.yaml'\n", "`include` takes no `${…}`"),
            ("include: {a: b}\n", "expected a path, or a list of paths"),
            ("includes: a.yaml\n", "unknown key `includes`"),
        ] {
            let dir = Dir::with(&[("a.yaml", &job("a")), ("b.yaml", &format!("{text}{}", job("b")))]);
            let refused = dir.refuses(&["b.yaml", "a.yaml"]);
            assert!(refused.contains("b.yaml:2:") && refused.contains(why), "{text}: {refused}");
        }
        let dir = Dir::with(&[
            ("a.yaml", &format!("include: b.yaml\ndefaults: {{}}\n{}", job("same"))),
            ("b.yaml", &format!("# shared\ndefaults: {{}}\n{}", job("same"))),
        ]);
        let refused = dir.refuses(&["a.yaml"]);
        for both in ["b.yaml:3:11: `defaults` is given in", "b.yaml:5:3: the job `same` is in a.yaml:5 as well"] {
            assert!(refused.contains(both), "{both}: {refused}");
        }
    }

    #[test]
    fn circles_and_deep_chains_of_includes_are_refused() {
        let dir = Dir::with(&[
            ("a.yaml", "include: b.yaml\njobs: {}\n"),
            ("b.yaml", "include: c.yaml\n"),
            ("c.yaml", "include: link.yaml\n"),
            ("self.yaml", "include: self.yaml\njobs: {}\n"),
        ]);
        symlink("b.yaml", dir.path("link.yaml")).unwrap();
        let circle = "c.yaml:2: `include` goes in a circle: b.yaml includes c.yaml includes link.yaml: take one";
        assert!(dir.refuses(&["a.yaml"]).starts_with(circle), "{}", dir.refuses(&["a.yaml"]));
        assert!(dir.refuses(&["self.yaml"]).contains("goes in a circle: self.yaml includes self.yaml"));
        for level in 0..MAX_INCLUDE_DEPTH + 1 {
            dir.write(&format!("level{level}.yaml"), &format!("include: level{}.yaml\n", level + 1));
        }
        dir.write(&format!("level{}.yaml", MAX_INCLUDE_DEPTH), &job("deep"));
        assert_eq!(dir.files(&["level0.yaml"]).len(), MAX_INCLUDE_DEPTH + 1);
        dir.write(&format!("level{}.yaml", MAX_INCLUDE_DEPTH), &format!("include: more.yaml\n{}", job("deep")));
        assert!(dir.refuses(&["level0.yaml"]).contains("over more than 10 levels"));
    }

    #[test]
    fn many_files_are_read_and_too_many_bytes_are_not() {
        let dir = Dir::with(&[("base.yaml", "defaults: {timeout: 5m}\n")]);
        for number in 0..1_000 {
            let include = "include: ../base.yaml\n";
            dir.write(&format!("d/{number:04}.yaml"), &format!("{include}{}", job(&format!("job-{number}"))));
        }
        let Reading { config, names, files } = dir.look(&["d"]);
        assert_eq!((config.unwrap().jobs.len(), names.len()), (1_000, 1_001));
        assert!(!files.has_changed(true));
        dir.write("base.yaml", "defaults: {timeout: 6m}\n");
        assert!(files.has_changed(true), "what is included is watched");
        // They have the bound of one file together: the rest is not read.
        let half = format!("# {}\n", "x".repeat(MAX_FILE_BYTES / 2));
        for name in ["half-1.yaml", "half-2.yaml", "half-3.yaml"] {
            dir.write(name, &half);
        }
        let refused = dir.refuses(&["half-1.yaml", "half-2.yaml", "half-3.yaml"]);
        assert!(refused.contains("the files are too large") && refused.contains("at most 32 MiB"), "{refused}");
    }

    /// What was there when the directory was listed, and is not when it is read, has the whole read refused and repeated.
    #[test]
    fn a_file_that_vanishes_leaves_a_change_to_be_seen() {
        let dir = Dir::with(&[("d/a.yaml", &job("a")), ("d/b.yaml", &format!("include: ../c.yaml\n{}", job("b")))]);
        dir.write("c.yaml", "defaults: {}\n");
        let before = dir.look(&["d"]);
        assert!(before.config.is_ok() && !before.files.has_changed(true));
        fs::remove_file(dir.path("c.yaml")).unwrap();
        assert!(before.files.has_changed(false));
        let Reading { config, files, .. } = dir.look(&["d"]);
        assert!(config.unwrap_err().to_string().contains("c.yaml: No such file") && !files.has_changed(true));
        dir.write("c.yaml", "defaults: {}\n");
        assert!(files.has_changed(false), "that it is back is noticed");
    }
}
