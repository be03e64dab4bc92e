//! Valid inputs of a decoder, where a fuzzer starts: `seeds DECODER FOLDER`. Without arguments: the names of all decoders.

use std::{fs, path::Path, process::ExitCode};

use bistro_tests::decoders::all;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, folder] = arguments.as_slice() else {
        all().iter().for_each(|decoder| println!("{}", decoder.name));
        return ExitCode::SUCCESS;
    };
    let Some(decoder) = all().into_iter().find(|decoder| decoder.name == name) else {
        eprintln!("{name} is no decoder: `seeds` without arguments lists them");
        return ExitCode::FAILURE;
    };
    let write = |(i, seed): (usize, Vec<u8>)| fs::write(Path::new(folder).join(i.to_string()), seed);
    let written =
        fs::create_dir_all(folder).and_then(|()| (decoder.seeds)().into_iter().enumerate().try_for_each(write));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed to write to {folder}: {error}");
            ExitCode::FAILURE
        }
    }
}
