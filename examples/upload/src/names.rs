//! Names of files and folders that peers may choose.

/// The most bytes of a name: the limit of Linux's file systems.
const LONGEST: usize = 255;

/// The beginning of the names of the store's own files. No peer may choose a name that begins so: with a number even
/// `.upload.part` would look like one of them.
pub const OWN_PREFIX: &str = ".upload";

/// Devices of Windows, with any extension. There, a file of such a name in a copied or shared folder can neither be
/// read nor removed.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];

/// Checks one component of a path.
///
/// # Errors
///
/// The reason, as the end of a sentence about the name.
pub fn check(name: &[u8]) -> Result<&str, &'static str> {
    if name.len() > LONGEST {
        return Err("it is longer than 255 bytes");
    }
    let name = std::str::from_utf8(name).map_err(|_| "it is not UTF-8")?;
    match name {
        "" => Err("it is empty"),
        "." | ".." => Err("it is a way to another folder"),
        _ if name.contains(['/', '\\']) => Err("it contains a separator"),
        _ if name.contains('\0') => Err("it contains a NUL"),
        _ if name.contains(char::is_control) => Err("it contains a control character"),
        _ if is_device(name) => Err("it is the name of a device"),
        _ if name.starts_with(OWN_PREFIX) => Err("such names are the server's own"),
        _ => Ok(name),
    }
}

fn is_device(name: &str) -> bool {
    let stem = name.split(['.', ':']).next().unwrap_or(name).trim_end().to_uppercase();
    let is_port = ["COM", "LPT"].iter().any(|port| {
        let number = stem.strip_prefix(port).map(|number| number.chars().collect::<Vec<_>>());
        matches!(number.as_deref(), Some(['0'..='9' | '¹' | '²' | '³']))
    });
    is_port || DEVICES.contains(&&*stem)
}

/// The name with a number, for a name that is taken: `a.txt`, `a-1.txt`, `a-2.txt`. A long name is shortened to stay within
/// the limit.
pub fn candidate(name: &str, number: u32) -> String {
    if number == 0 { name.to_owned() } else { marked(name, &format!("-{number}")) }
}

/// A name with a random mark, for a name of which too many numbers are taken.
pub fn unlikely(name: &str) -> String {
    marked(name, &random_mark())
}

/// A random mark, which makes a name unique.
pub fn random_mark() -> String {
    let mut bytes = [0; 8];
    // Without random bytes, two names at once may get the same mark, and the second one is then refused as taken.
    let _ = getrandom::fill(&mut bytes);
    format!("-{:016x}", u64::from_be_bytes(bytes))
}

/// Finds a number whose name is free and whose predecessor's name is taken; zero if the name without a number is free. It
/// tries 1, 2, 4 and so on, and then halves the interval between the last taken and the first free number, so that
/// thousands of files cost few calls of `is_taken`. `None` if all numbers that it tries are taken.
///
/// # Errors
///
/// Errors of `is_taken`.
pub fn next_number<E>(mut is_taken: impl FnMut(u32) -> Result<bool, E>) -> Result<Option<u32>, E> {
    if !is_taken(0)? {
        return Ok(Some(0));
    }
    let (mut taken, mut free) = (0, 1);
    while is_taken(free)? {
        taken = free;
        free = match free.checked_mul(2) {
            Some(free) => free,
            None => return Ok(None),
        };
    }
    while free - taken > 1 {
        let middle = taken + (free - taken) / 2;
        if is_taken(middle)? {
            taken = middle;
        } else {
            free = middle;
        }
    }
    Ok(Some(free))
}

fn marked(name: &str, mark: &str) -> String {
    // A leading dot hides a file and begins no extension.
    let dot = name.rfind('.').filter(|at| *at > 0).unwrap_or(name.len());
    let (stem, ending) = name.split_at(dot);
    let room = LONGEST.saturating_sub(mark.len() + ending.len());
    if room == 0 {
        // An extension that leaves no room for a stem is cut as a part of the stem.
        return format!("{}{mark}", shortened(name, LONGEST - mark.len()));
    }
    format!("{}{mark}{ending}", shortened(stem, room))
}

fn shortened(text: &str, room: usize) -> &str {
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
