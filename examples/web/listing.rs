//! The page that lists a folder. It has no script: sorting is by links, so that it works everywhere.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::answer::{escape, http_date};
use crate::folder::{Folder, Thing, encode, folder_url};

/// How much of a folder is shown: more than anyone reads, and little enough for many visitors at once.
const SHOWN: usize = 10_000;

/// What is in a folder.
pub struct Listing {
    path: PathBuf,
    entries: Vec<Entry>,
    /// There is more than is shown.
    is_cut: bool,
}

struct Entry {
    name: OsString,
    is_folder: bool,
    size: u64,
    modified: Option<SystemTime>,
}

/// By what the entries are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Name,
    Size,
    Modified,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sorting {
    key: Key,
    descending: bool,
}

impl Listing {
    /// Reads a folder. What a visitor could not open is left out: links to the outside, sockets, and the like.
    pub fn read(folder: &Folder, thing: &Thing) -> io::Result<Self> {
        let mut entries = Vec::new();
        for entry in thing.entries()? {
            let entry = entry?;
            let mut metadata = entry.metadata();
            if metadata.as_ref().is_ok_and(Metadata::is_symlink) {
                let target = folder.find(&thing.path.join(entry.file_name()));
                metadata = target.map(|target| target.metadata);
            }
            // What has vanished meanwhile is left out as well.
            let Ok(metadata) = metadata else { continue };
            if entries.len() == SHOWN {
                return Ok(Self { path: thing.path.clone(), entries, is_cut: true });
            }
            if metadata.is_file() || metadata.is_dir() {
                entries.push(Entry {
                    name: entry.file_name(),
                    is_folder: metadata.is_dir(),
                    size: metadata.len(),
                    modified: metadata.modified().ok(),
                });
            }
        }
        Ok(Self { path: thing.path.clone(), entries, is_cut: false })
    }

    /// The page, sorted as the query asks.
    pub fn page(mut self, query: Option<&str>) -> String {
        let sorting = Sorting::read(query.unwrap_or_default());
        self.entries.sort_by_cached_key(|entry| entry.name.to_string_lossy().to_lowercase());
        // Stable: what is equal stays in the order of names.
        self.entries.sort_by(|one, other| sorting.compare(one, other));
        let rows: String = self.entries.iter().map(|entry| entry.row(sorting)).collect();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
             <link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n</head>\n\
             <body>\n{ICONS}\n<main>\n<h1>{crumbs}</h1>\n<table>\n\
             <thead><tr>{name}{size}{modified}</tr></thead>\n<tbody>\n{up}{rows}</tbody>\n\
             </table>\n{summary}</main>\n</body>\n</html>\n",
            title = escape(&format!("/{}", self.path.to_string_lossy())),
            crumbs = self.crumbs(sorting),
            name = sorting.heading(Key::Name),
            size = sorting.heading(Key::Size),
            modified = sorting.heading(Key::Modified),
            up = self.way_up(sorting),
            summary = self.summary(),
        )
    }

    /// The row that leads to the parent folder; it keeps the order.
    fn way_up(&self, sorting: Sorting) -> String {
        if self.path.as_os_str().is_empty() {
            return String::new();
        }
        format!(
            "<tr class=\"up\"><td class=\"name\"><a href=\"../{}\">{}Parent folder</a></td>\
             <td></td><td></td></tr>\n",
            sorting.query(),
            icon("up")
        )
    }

    fn summary(&self) -> String {
        if self.entries.is_empty() {
            return "<p class=\"empty\">This folder is empty.</p>\n".to_owned();
        }
        let (folders, files): (Vec<&Entry>, Vec<&Entry>) =
            self.entries.iter().partition(|entry| entry.is_folder);
        // A few sparse files can claim to be larger than any number.
        let total = files.iter().fold(0_u64, |total, file| total.saturating_add(file.size));
        format!(
            "<footer>{}{}, {}, {}; times are UTC</footer>\n",
            if self.is_cut { "There is more than this page shows: " } else { "" },
            count(folders.len(), "folder"),
            count(files.len(), "file"),
            human_size(total)
        )
    }

    /// The way to this folder, each part a link.
    fn crumbs(&self, sorting: Sorting) -> String {
        let query = sorting.query();
        let mut crumbs = format!("<a href=\"/{query}\">{} Files</a>", icon("home"));
        let mut path = PathBuf::new();
        for name in &self.path {
            path.push(name);
            crumbs += &format!(
                "<span class=\"slash\">/</span><a href=\"{}{query}\"><bdi>{}</bdi></a>",
                folder_url(&path),
                escape(&name.to_string_lossy())
            );
        }
        crumbs
    }
}

impl Entry {
    fn row(&self, sorting: Sorting) -> String {
        let (shape, slash, query) = if self.is_folder {
            ("folder", "/", sorting.query())
        } else {
            ("file", "", String::new())
        };
        let size = match self.is_folder {
            true => "<td class=\"size\"></td>".to_owned(),
            false => format!(
                "<td class=\"size\" title=\"{} bytes\">{}</td>",
                self.size,
                human_size(self.size)
            ),
        };
        let date = self.modified.and_then(http_date).unwrap_or_default();
        // From the day to the minute.
        let short = date.get(5..22).unwrap_or_default();
        format!(
            "<tr><td class=\"name\"><a href=\"./{}{slash}{query}\">{}<bdi>{}{slash}</bdi></a></td>{size}\
             <td class=\"modified\" title=\"{date}\">{short}</td></tr>\n",
            encode(&self.name),
            icon(shape),
            escape(&self.name.to_string_lossy()),
        )
    }
}

impl Sorting {
    fn read(query: &str) -> Self {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
        };
        let key = match value("sort") {
            Some("size") => Key::Size,
            Some("modified") => Key::Modified,
            _ => Key::Name,
        };
        Self { key, descending: value("order") == Some("desc") }
    }

    /// The query that asks for it; empty for the usual one.
    fn query(self) -> String {
        match (self.key, self.descending) {
            (Key::Name, false) => String::new(),
            (key, descending) => {
                let order = if descending { "desc" } else { "asc" };
                format!("?sort={}&amp;order={order}", key.word())
            }
        }
    }

    /// Folders come first, whatever is asked for.
    fn compare(self, one: &Entry, other: &Entry) -> Ordering {
        let order = match self.key {
            // They are in this order already.
            Key::Name if !self.descending => Ordering::Equal,
            Key::Name => {
                let lower = |entry: &Entry| entry.name.to_string_lossy().to_lowercase();
                lower(one).cmp(&lower(other))
            }
            Key::Size if one.is_folder => Ordering::Equal,
            Key::Size => one.size.cmp(&other.size),
            Key::Modified => one.modified.cmp(&other.modified),
        };
        let order = if self.descending { order.reverse() } else { order };
        other.is_folder.cmp(&one.is_folder).then(order)
    }

    /// A column's heading: a link to its order, and to the reverse if it is in that order now.
    fn heading(self, key: Key) -> String {
        let is_current = self.key == key;
        let next = match is_current {
            true => Self { key, descending: !self.descending },
            // Of sizes and dates the largest are what is looked for.
            false => Self { key, descending: key != Key::Name },
        };
        let (aria, mark) = match (is_current, self.descending) {
            (false, _) => ("", ""),
            (true, false) => (" aria-sort=\"ascending\"", "\u{25b2}"),
            (true, true) => (" aria-sort=\"descending\"", "\u{25bc}"),
        };
        // An empty query asks for the usual order again.
        let query = Some(next.query()).filter(|query| !query.is_empty());
        format!(
            "<th scope=\"col\" class=\"{}\"{aria}><a href=\"{}\">{}<span class=\"mark\" \
             aria-hidden=\"true\">{mark}</span></a></th>",
            key.word(),
            query.as_deref().unwrap_or("./"),
            key.title(),
        )
    }
}

impl Key {
    fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Size => "size",
            Self::Modified => "modified",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Name => "Name",
            Self::Size => "Size",
            Self::Modified => "Modified",
        }
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A size in the largest unit of which there is one.
fn human_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 999.5 {
            let digits = usize::from(unit != "B" && size < 9.95);
            return format!("{size:.digits$} {unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

fn icon(name: &str) -> String {
    format!("<svg class=\"icon {name}\" aria-hidden=\"true\"><use href=\"#{name}\"/></svg>")
}

const ICONS: &str = include_str!("listing.svg");
const STYLE: &str = include_str!("listing.css");
