//! The page that lists a folder. It has no script: it is sorted by links, which every browser follows.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::fs::{DirEntry, Metadata};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::answer::{escape, http_date};
use crate::folder::{Root, Thing, encode, folder_url};

/// How many entries a page has: more than anyone reads, and few enough for many clients at once.
const PAGE: usize = 1_000;

/// The most pages of a folder. The entries up to the end of the shown page are sorted in memory.
const PAGES: usize = 100;

/// One page of the entries of a folder.
pub struct Listing {
    path: PathBuf,
    view: View,
    /// The entries of this page, sorted.
    entries: Vec<Entry>,
    /// The total of the whole folder.
    total: Total,
}

#[derive(Clone, Copy, Default)]
struct Total {
    folders: usize,
    files: usize,
    bytes: u64,
}

struct Entry {
    name: OsString,
    /// The name in the form that is compared.
    folded: String,
    is_folder: bool,
    size: u64,
    modified: Option<SystemTime>,
}

/// Which page of a folder is shown, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    sorting: Sorting,
    /// The number of the page, from 1 on.
    page: usize,
}

/// The column that the entries are sorted by.
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

impl View {
    /// Reads a query. Parts that cannot be read are ignored.
    pub fn read(query: &str) -> Self {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
        };
        let key = match value("sort") {
            Some("size") => Key::Size,
            Some("modified") => Key::Modified,
            _ => Key::Name,
        };
        let page = value("page").and_then(|page| page.parse().ok()).unwrap_or(1);
        let sorting = Sorting { key, descending: value("order") == Some("desc") };
        Self { sorting, page: page.clamp(1, PAGES) }
    }

    /// How many bytes it may take to make this page: twice the entries up to its end, and twice the page itself.
    pub fn cost(self) -> usize {
        const ENTRY_BYTES: usize = 2 * 200;
        const ROW_BYTES: usize = 2 * 600;
        self.page * PAGE * ENTRY_BYTES + PAGE * ROW_BYTES
    }
}

impl Listing {
    /// Reads a folder. Entries that a client could not open are left out: links to the outside, sockets, and the like.
    ///
    /// All entries are read, because the first page needs those that sort first. Only the entries of the pages up to
    /// this one are kept.
    pub fn read(root: &Root<'_>, thing: &Thing, view: View) -> io::Result<Self> {
        let kept = view.page * PAGE;
        let mut entries = Vec::new();
        let mut total = Total::default();
        for entry in thing.entries()? {
            let Some(entry) = Entry::read(root, thing, &entry?)? else { continue };
            total.add(&entry);
            entries.push(entry);
            if entries.len() == 2 * kept {
                entries.select_nth_unstable_by(kept, |one, other| view.sorting.compare(one, other));
                entries.truncate(kept);
            }
        }
        entries.sort_unstable_by(|one, other| view.sorting.compare(one, other));
        // A number beyond the last page means the last page.
        let page = view.page.min(total.pages());
        entries.truncate(page * PAGE);
        let entries = entries.split_off((page - 1) * PAGE);
        Ok(Self { path: thing.path.clone(), view: View { page, ..view }, entries, total })
    }

    /// The page as HTML.
    pub fn page(&self) -> String {
        let sorting = self.view.sorting;
        let rows: String = self.entries.iter().map(|entry| entry.row(sorting)).collect();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
             <link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n</head>\n\
             <body>\n{ICONS}\n<main>\n<h1>{crumbs}</h1>\n<table>\n\
             <thead><tr>{name}{size}{modified}</tr></thead>\n<tbody>\n{up}{rows}</tbody>\n\
             </table>\n{pages}{summary}</main>\n</body>\n</html>\n",
            title = escape(&format!("/{}", self.path.to_string_lossy())),
            crumbs = self.crumbs(sorting),
            name = sorting.heading(Key::Name),
            size = sorting.heading(Key::Size),
            modified = sorting.heading(Key::Modified),
            up = self.way_up(sorting),
            pages = self.pages(),
            summary = self.summary(),
        )
    }

    /// Links to the other pages; empty if there is only one page.
    fn pages(&self) -> String {
        let (page, last) = (self.view.page, self.total.pages());
        if last == 1 {
            return String::new();
        }
        let link = |page: usize, rel: &str, text: &str| {
            let query = self.view.sorting.query_of_page(page);
            format!("<a rel=\"{rel}\" href=\"{query}\">{text}</a>")
        };
        let back =
            (page > 1).then(|| link(1, "first", "First") + &link(page - 1, "prev", "Previous"));
        let on =
            (page < last).then(|| link(page + 1, "next", "Next") + &link(last, "last", "Last"));
        format!(
            "<nav>{}<span>Page {page} of {last}</span>{}</nav>\n",
            back.unwrap_or_default(),
            on.unwrap_or_default()
        )
    }

    /// The row that leads to the parent folder; its link keeps the sort order.
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
        let Total { folders, files, bytes } = self.total;
        if folders + files == 0 {
            return "<p class=\"empty\">This folder is empty.</p>\n".to_owned();
        }
        let is_cut = folders + files > PAGES * PAGE;
        format!(
            "<footer>{}{}, {}, {}; times are UTC</footer>\n",
            if is_cut { "There is more than these pages show: " } else { "" },
            count(folders, "folder"),
            count(files, "file"),
            human_size(bytes)
        )
    }

    /// The path of this folder, each part a link.
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

impl Total {
    fn add(&mut self, entry: &Entry) {
        if entry.is_folder {
            self.folders += 1;
        } else {
            self.files += 1;
            // Sparse files may claim more bytes together than fit into the number.
            self.bytes = self.bytes.saturating_add(entry.size);
        }
    }

    fn pages(self) -> usize {
        (self.folders + self.files).div_ceil(PAGE).clamp(1, PAGES)
    }
}

impl Entry {
    /// Reads an entry. Returns `None` if a client could not open it.
    fn read(root: &Root<'_>, folder: &Thing, entry: &DirEntry) -> io::Result<Option<Self>> {
        let name = entry.file_name();
        if root.hides(&name) {
            return Ok(None);
        }
        let metadata = match entry.metadata() {
            Ok(metadata) if metadata.is_symlink() => {
                root.find(&folder.path.join(&name)).map(|target| target.metadata).ok()
            }
            Ok(metadata) => Some(metadata),
            // The folder allows its names to be read and nothing else: it counts as unreadable.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // The entry has been removed since the folder was read.
            Err(_) => None,
        };
        let is_shown = |metadata: &Metadata| metadata.is_file() || metadata.is_dir();
        Ok(metadata.filter(is_shown).map(|metadata| Self {
            folded: name.to_string_lossy().to_lowercase(),
            name,
            is_folder: metadata.is_dir(),
            size: metadata.len(),
            modified: metadata.modified().ok(),
        }))
    }

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
        // This is the date from the day to the minute.
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
    /// The query for this order. Empty for the usual one.
    fn query(self) -> String {
        match (self.key, self.descending) {
            (Key::Name, false) => String::new(),
            (key, descending) => {
                let order = if descending { "desc" } else { "asc" };
                format!("?sort={}&amp;order={order}", key.word())
            }
        }
    }

    /// The query that asks for one page in this order.
    fn query_of_page(self, page: usize) -> String {
        let query = self.query();
        match (query.is_empty(), page) {
            (true, 1) => "./".to_owned(),
            (true, _) => format!("?page={page}"),
            (false, 1) => query,
            (false, _) => format!("{query}&amp;page={page}"),
        }
    }

    /// Folders come first in every order. No two entries are equal, so that each is on one page.
    fn compare(self, one: &Entry, other: &Entry) -> Ordering {
        let by_name = one.folded.cmp(&other.folded).then_with(|| one.name.cmp(&other.name));
        let order = match self.key {
            Key::Name => by_name,
            Key::Size if one.is_folder => Ordering::Equal,
            Key::Size => one.size.cmp(&other.size),
            Key::Modified => one.modified.cmp(&other.modified),
        };
        let order = if self.descending { order.reverse() } else { order };
        other.is_folder.cmp(&one.is_folder).then(order).then(by_name)
    }

    /// A column's heading, which links to the order by this column, or to the reverse if the page is in that order now.
    fn heading(self, key: Key) -> String {
        let is_current = self.key == key;
        let next = match is_current {
            true => Self { key, descending: !self.descending },
            // The first click on size or date shows the largest or newest first, as readers expect.
            false => Self { key, descending: key != Key::Name },
        };
        let (aria, mark) = match (is_current, self.descending) {
            (false, _) => ("", ""),
            (true, false) => (" aria-sort=\"ascending\"", "\u{25b2}"),
            (true, true) => (" aria-sort=\"descending\"", "\u{25bc}"),
        };
        // An empty query means the usual order: the link then leads to the folder itself.
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

/// A size in the largest unit that fits into it at least once.
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
