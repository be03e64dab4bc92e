//! Uploads in parts. They are lost when the program stops.

use super::{
    body::MAX_OBJECT_BYTES,
    folder::{Attributes, Folder, internal},
};
use s3s::{S3Result, s3_error};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

const MAX_UPLOADS: usize = 1000;
const MAX_PARTS: i32 = 10_000;

/// An upload that is not complete.
pub struct Upload {
    pub access_key: String,
    pub key: String,
    pub attributes: Attributes,
    parts: BTreeMap<i32, Part>,
}

struct Part {
    path: PathBuf,
    size: u64,
    e_tag: String,
}

/// The uploads under way, by their ids.
#[derive(Default)]
pub struct Uploads {
    open: Mutex<HashMap<String, Upload>>,
}

impl Uploads {
    /// Begins an upload and answers its id.
    pub fn create(&self, access_key: &str, key: &str, attributes: Attributes) -> S3Result<String> {
        let mut random = [0; 16];
        File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).map_err(internal)?;
        let id = hex::encode(random);
        let mut open = self.lock();
        if open.len() >= MAX_UPLOADS {
            return Err(s3_error!(SlowDown, "{MAX_UPLOADS} uploads are under way"));
        }
        let (access_key, key) = (access_key.to_owned(), key.to_owned());
        open.insert(id.clone(), Upload { access_key, key, attributes, parts: BTreeMap::new() });
        Ok(id)
    }

    /// Adds a part that lies at `path`, or replaces the one with this number. Answers its ETag.
    pub fn add(&self, id: &str, access_key: &str, key: &str, number: i32, path: &Path, size: u64) -> S3Result<String> {
        let mut open = self.lock();
        let added = find(&mut open, id, access_key, key).and_then(|upload| {
            let others: u64 =
                upload.parts.iter().filter(|(other, _)| **other != number).map(|(_, part)| part.size).sum();
            if !(1..=MAX_PARTS).contains(&number) || others + size > MAX_OBJECT_BYTES {
                return Err(s3_error!(InvalidArgument, "at most {MAX_PARTS} parts and {MAX_OBJECT_BYTES} bytes"));
            }
            let e_tag = format!("{}-1", &blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()[..32]);
            let part = Part { path: path.to_path_buf(), size, e_tag: e_tag.clone() };
            Ok((upload.parts.insert(number, part), e_tag))
        });
        match added {
            Ok((replaced, e_tag)) => {
                replaced.iter().for_each(Part::delete);
                Ok(e_tag)
            }
            Err(error) => {
                let _ = std::fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// Joins the named parts (number and ETag, in order) into a new file; the upload is over.
    pub fn join(
        &self,
        id: &str,
        access_key: &str,
        key: &str,
        named: &[(i32, Option<String>)],
        folder: &Folder,
    ) -> S3Result<(PathBuf, Attributes)> {
        let upload = {
            let mut open = self.lock();
            let upload = find(&mut open, id, access_key, key)?;
            let ascending = named.windows(2).all(|pair| pair[0].0 < pair[1].0);
            let known = named.iter().all(|(number, e_tag)| {
                upload.parts.get(number).is_some_and(|part| e_tag.as_ref().is_none_or(|e_tag| *e_tag == part.e_tag))
            });
            if named.is_empty() || !ascending {
                return Err(s3_error!(InvalidPartOrder, "name the parts in ascending order"));
            }
            if !known {
                return Err(s3_error!(InvalidPart, "a part is missing or has another ETag"));
            }
            open.remove(id).ok_or_else(no_such_upload)?
        };
        let target = folder.temporary_path();
        let joined = join_files(named.iter().filter_map(|(number, _)| upload.parts.get(number)), &target);
        upload.parts.values().for_each(Part::delete);
        joined.map_err(internal)?;
        Ok((target, upload.attributes))
    }

    /// Ends an upload without an object.
    pub fn abort(&self, id: &str, access_key: &str, key: &str) -> S3Result<()> {
        let mut open = self.lock();
        find(&mut open, id, access_key, key)?;
        open.remove(id).iter().flat_map(|upload| upload.parts.values()).for_each(Part::delete);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn delete(&self) {
        // Otherwise it is deleted at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// An upload belongs to one key and to whoever began it.
fn find<'a>(open: &'a mut HashMap<String, Upload>, id: &str, access_key: &str, key: &str) -> S3Result<&'a mut Upload> {
    let upload = open.get_mut(id).ok_or_else(no_such_upload)?;
    if upload.access_key != access_key || upload.key != key {
        return Err(no_such_upload());
    }
    Ok(upload)
}

fn no_such_upload() -> s3s::S3Error {
    s3_error!(NoSuchUpload, "no upload of this key has this id")
}

fn join_files<'a>(parts: impl Iterator<Item = &'a Part>, target: &Path) -> io::Result<()> {
    let mut joined = File::create_new(target)?;
    for part in parts {
        io::copy(&mut File::open(&part.path)?, &mut joined)?;
    }
    Ok(())
}
