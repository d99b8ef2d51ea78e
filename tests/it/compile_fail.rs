//! Compile errors are part of the interface: the most frequent mistakes are answered with a sentence that says what to
//! write instead.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// Each wrong program, and the sentences that the compiler's message must have.
const SENTENCES: [(&str, &[&str]); 9] = [
    (
        "datagram_handler_on_tcp",
        &[
            "`Echo` does not handle connections",
            "TCP and Unix stream servers need `impl StreamRequestHandler for Echo`",
        ],
    ),
    (
        "stream_handler_on_udp",
        &[
            "`Hello` does not handle datagrams",
            "UDP and Unix datagram servers need `impl DatagramRequestHandler for Hello`",
        ],
    ),
    (
        "not_a_handler",
        &["`Plain` does not handle connections", "`impl StreamRequestHandler for Plain`"],
    ),
    (
        "value_for_closure",
        &[
            "`Quiet` does not make handlers for a `StreamRequest`",
            "expected a closure that makes a handler, as in `|| Echo`",
            "a function becomes a handler by `stream_fn(function)` or `datagram_fn(function)`",
        ],
    ),
    (
        "function_without_stream_fn",
        &[
            "does not make handlers for a `StreamRequest`",
            "a function becomes a handler by `stream_fn(function)` or `datagram_fn(function)`",
        ],
    ),
    // The compiler asks for the type first and prints no sentence of this crate. The docs of `bind` explain the number.
    ("closure_without_a_type", &["error[E0282]", "giving this closure parameter an explicit type"]),
    (
        "closure_without_stream_fn",
        &[
            "does not make handlers for a `StreamRequest`",
            "a function becomes a handler by `stream_fn(function)` or `datagram_fn(function)`",
        ],
    ),
    (
        "limits_as_literal",
        &["cannot create non-exhaustive struct using struct expression", "Limits { idle:"],
    ),
    (
        "stream_hooks_on_udp",
        &[
            "`Quiet` has no hooks for a `DatagramRequest`",
            "implement `ServerHooks<DatagramRequest>` for it",
        ],
    ),
];

/// The compiler whose whole output is in the `.stderr` files.
const PINNED: &str = "rustc 1.95.0 ";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The path of a wrong program from the project's folder. It is part of the compiler's message.
fn program(name: &str) -> PathBuf {
    format!("tests/compile_fail/{name}.rs").into()
}

fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// The library as it was built for these tests: the newest one beside them.
fn library() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let files = this.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().path());
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libsocketserver-") && name.ends_with(".rlib")
    };
    let age = |path: &PathBuf| path.metadata().and_then(|found| found.modified()).ok();
    files.filter(is_library).max_by_key(|path| age(path).unwrap_or(SystemTime::UNIX_EPOCH)).unwrap()
}

/// Compiles a program as a user of the library does. Returns the compiler's message if it fails.
fn compile(program: &Path) -> Result<(), String> {
    let library = library();
    let folder = crate::support::folder();
    let output = rustc()
        .current_dir(root())
        .args(["--edition=2024", "--emit=metadata", "--crate-type=bin", "--color=never"])
        .arg(format!("--extern=socketserver={}", library.display()))
        .arg(format!("-Ldependency={}", library.parent().unwrap().display()))
        .arg("--out-dir")
        .arg(folder.path())
        .arg(program)
        .output()
        .expect("a compiler");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
}

#[test]
fn what_is_wrong_is_said_in_words() {
    for (name, sentences) in SENTENCES {
        let said = compile(&program(name));
        let said = said.expect_err("it must not compile");
        for sentence in sentences {
            assert!(said.contains(sentence), "{name}: {sentence:?} is not in\n{said}");
        }
        assert_eq!(said.matches("error[").count(), 1, "{name}: one mistake, one error\n{said}");
    }
}

#[test]
fn what_may_be_added_breaks_no_program() {
    if let Err(said) = compile(Path::new("tests/compile_pass/additions.rs")) {
        panic!("{said}");
    }
}

#[test]
fn what_the_documentation_shows_compiles() {
    if let Err(said) = compile(Path::new("tests/compile_pass/programs.rs")) {
        panic!("{said}");
    }
}

/// The whole message, as people see it. It changes with the compiler, so only one version is compared; the sentences
/// above hold for every version. `OVERWRITE=1` writes the files anew.
#[test]
fn the_whole_error_reads_well() {
    let version = String::from_utf8(rustc().arg("--version").output().unwrap().stdout).unwrap();
    if !version.starts_with(PINNED) {
        println!("skipped: the expected output is that of {PINNED}and not of {version}");
        return;
    }
    let mut different = Vec::new();
    for (name, _) in SENTENCES {
        let said = compile(&program(name)).expect_err("it must not compile");
        let (said, file) =
            (without_places(&said), root().join(program(name).with_extension("stderr")));
        if std::env::var_os("OVERWRITE").is_some() {
            std::fs::write(&file, &said).unwrap();
        }
        if std::fs::read_to_string(&file).unwrap_or_default() != said {
            different.push(format!("{name}:\n{said}"));
        }
    }
    assert!(different.is_empty(), "not what the files say:\n{}", different.join("\n"));
}

#[test]
fn each_wrong_program_is_asked() {
    let files = std::fs::read_dir(root().join("tests/compile_fail")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut asked = SENTENCES.map(|(name, _)| name);
    asked.sort_unstable();
    assert_eq!(names, asked);
}

/// The compiler's message without the parts that change with every edit of the library: the folder, the line numbers of
/// `src`, and the width of the margin.
fn without_places(said: &str) -> String {
    let said = said.replace(&format!("{}/", root().display()), "");
    // With all features there is another `Server` among the crates, and the compiler tells them apart.
    let said = said.replace("`socketserver::Server::<", "`Server::<");
    let mut in_src = false;
    let mut kept = String::new();
    for line in said.lines() {
        let trimmed = line.trim_start();
        let text = trimmed.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = if in_src { "" } else { &trimmed[..trimmed.len() - text.len()] };
        let text = text.trim_start();
        let left_out = [
            "error: aborting due",
            "For more information about this error",
            // The name of a temporary file.
            "= note: the full name for the type has been written to",
            "= note: consider using `--verbose` to print the full type name",
        ];
        if left_out.iter().any(|words| text.starts_with(words)) {
            continue;
        } else if let Some(place) = text.strip_prefix("--> ") {
            in_src = place.starts_with("src/");
            let place = if in_src { place.split(':').next().unwrap() } else { place };
            kept += &format!("   --> {place}");
        } else if text.starts_with(['|', '=']) {
            kept += &format!("{number:>4} {text}");
        } else {
            kept += line;
        }
        kept += "\n";
    }
    kept.trim_end().to_owned() + "\n"
}
