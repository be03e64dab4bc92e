//! Listings: the keys below a prefix, in the order of their bytes, a page at a time.

use super::folder::{Folder, Stat, stat_of};
use std::{collections::BTreeMap, fs, io, path::Path};

/// The most entries of one page, as on S3.
pub const MAX_KEYS: usize = 1000;

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub prefix: String,
    /// Keys are folded at the first of these after the prefix.
    pub delimiter: Option<String>,
    /// Only entries after this one.
    pub after: Option<String>,
    pub max_keys: usize,
}

/// One page.
#[derive(Debug, Default)]
pub struct Page {
    pub objects: Vec<(String, Stat)>,
    pub prefixes: Vec<String>,
    /// Whether more entries follow.
    pub truncated: bool,
    /// The last entry of the page.
    pub last: Option<String>,
}

/// Answers a query. Reads folders: call it where blocking is allowed.
pub fn list(folder: &Folder, query: &Query) -> io::Result<Page> {
    // `Some`: an object; `None`: a folded prefix.
    let mut entries: BTreeMap<String, Option<Stat>> = BTreeMap::new();
    for (root, root_key) in folder.trees() {
        walk(root, root_key, query, &mut entries)?;
    }
    let mut page = Page::default();
    for (entry, stat) in entries {
        if page.objects.len() + page.prefixes.len() == query.max_keys.min(MAX_KEYS) {
            page.truncated = true;
            break;
        }
        page.last = Some(entry.clone());
        match stat {
            Some(stat) => page.objects.push((entry, stat)),
            None => page.prefixes.push(entry),
        }
    }
    Ok(page)
}

/// Adds what lies below one folder, whose own key is empty or ends with `/`. Links are not followed.
fn walk(path: &Path, key: &str, query: &Query, entries: &mut BTreeMap<String, Option<Stat>>) -> io::Result<()> {
    let prefix = query.prefix.as_str();
    if !key.starts_with(prefix) && !prefix.starts_with(key) {
        return Ok(());
    }
    if let Some(folded) = folded(key, query) {
        // Nothing below shows by its own name. A folder always holds an object: empty ones are deleted.
        add(folded, None, query, entries);
        return Ok(());
    }
    let folder = match fs::read_dir(path) {
        // Deleted since its parent was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        folder => folder?,
    };
    for entry in folder {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            walk(&entry.path(), &format!("{key}{name}/"), query, entries)?;
        } else if metadata.is_file() {
            let key = format!("{key}{name}");
            match folded(&key, query) {
                Some(folded) => add(folded, None, query, entries),
                None if key.starts_with(prefix) => add(key, Some(stat_of(&metadata)), query, entries),
                None => {}
            }
        }
    }
    Ok(())
}

/// The common prefix under which a key is shown, if it is folded.
fn folded(key: &str, query: &Query) -> Option<String> {
    let delimiter = query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty())?;
    let rest = key.strip_prefix(&query.prefix)?;
    let end = rest.find(delimiter)? + delimiter.len();
    Some(format!("{}{}", query.prefix, &rest[..end]))
}

fn add(entry: String, stat: Option<Stat>, query: &Query, entries: &mut BTreeMap<String, Option<Stat>>) {
    if query.after.as_ref().is_none_or(|after| entry > *after) {
        entries.insert(entry, stat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::folder::{Attributes, Condition};

    fn folder(keys: &[&str]) -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let corpus = root.path().join("text");
        fs::create_dir_all(corpus.join("a")).expect("made");
        fs::write(corpus.join("a/1.txt"), "one").expect("written");
        std::os::unix::fs::symlink("/etc", corpus.join("link")).expect("linked");
        let folder = Folder::open(&root.path().join("bucket"), Some(&corpus)).expect("opened");
        for key in keys {
            let file = folder.temporary_path();
            fs::write(&file, key).expect("written");
            folder.commit(&file, key, &Attributes::default(), &Condition::Always).expect("committed");
        }
        (root, folder)
    }

    fn query(prefix: &str, delimiter: Option<&str>) -> Query {
        let delimiter = delimiter.map(str::to_owned);
        Query { prefix: prefix.to_owned(), delimiter, after: None, max_keys: MAX_KEYS }
    }

    fn keys(page: &Page) -> Vec<&str> {
        page.objects.iter().map(|(key, _)| key.as_str()).collect()
    }

    #[test]
    fn keys_come_in_the_order_of_their_bytes_with_the_corpus_among_them() {
        let (_root, folder) = folder(&["x/b", "x-y", "x.z", "a/b/c"]);
        let page = list(&folder, &query("", None)).expect("listed");
        assert_eq!(keys(&page), ["a/b/c", "corpus/a/1.txt", "x-y", "x.z", "x/b"]);
        assert!(!page.truncated);
    }

    #[test]
    fn a_prefix_may_end_within_a_name() {
        let (_root, folder) = folder(&["a/12", "a/13/x", "a/2", "b/1"]);
        assert_eq!(keys(&list(&folder, &query("a/1", None)).expect("listed")), ["a/12", "a/13/x"]);
        assert_eq!(keys(&list(&folder, &query("corpus/a/", None)).expect("listed")), ["corpus/a/1.txt"]);
    }

    #[test]
    fn a_delimiter_folds_what_follows_it() {
        let (_root, folder) = folder(&["a/1", "a/2/x", "a/2/y", "b"]);
        let page = list(&folder, &query("", Some("/"))).expect("listed");
        assert_eq!(keys(&page), ["b"]);
        assert_eq!(page.prefixes, ["a/", "corpus/"]);
        let page = list(&folder, &query("a/", Some("/"))).expect("listed");
        assert_eq!(keys(&page), ["a/1"]);
        assert_eq!(page.prefixes, ["a/2/"]);
        let page = list(&folder, &query("a", Some("2/"))).expect("listed");
        assert_eq!(keys(&page), ["a/1"]);
        assert_eq!(page.prefixes, ["a/2/"]);
    }

    #[test]
    fn pages_together_hold_every_entry_once() {
        let (_root, folder) = folder(&["a", "b/1", "b/2", "c"]);
        let mut found = Vec::new();
        let mut query = Query { max_keys: 2, ..query("", Some("/")) };
        loop {
            let page = list(&folder, &query).expect("listed");
            found.extend(page.objects.into_iter().map(|(key, _)| key));
            found.extend(page.prefixes);
            query.after = page.last;
            if !page.truncated {
                break;
            }
        }
        assert_eq!(found, ["a", "b/", "c", "corpus/"]);
    }

    #[test]
    fn keys_that_lead_out_of_the_root_are_no_keys() {
        let (_root, folder) = folder(&["a"]);
        for key in
            ["../a", "a/../../b", "/etc/passwd", "a//b", "./a", "", "corpus/../bucket/objects/a", "corpus/link/hosts"]
        {
            assert!(folder.read(key).is_err(), "{key}");
        }
        let long = "x".repeat(256);
        assert!(folder.delete(&long).is_err());
    }
}
