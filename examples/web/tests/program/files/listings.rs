//! Listings of folders: their order, their pages, and the index in their place.

use super::*;

#[test]
fn a_folder_shows_its_index_or_a_listing() {
    let (_folder, _server, address) = site(|path| {
        for name in ["with", "old", "without", "both"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        fs::write(path.join("with/index.html"), "the index").unwrap();
        fs::write(path.join("old/index.htm"), "the old index").unwrap();
        fs::write(path.join("both/index.html"), "the index").unwrap();
        fs::write(path.join("both/index.htm"), "the old index").unwrap();
        // A folder with the name of an index is no index.
        fs::create_dir(path.join("without/index.html")).unwrap();
    });
    assert_eq!(get(address, "/with/", "").text(), "the index");
    assert_eq!(get(address, "/both/?x", "").text(), "the index");
    assert_eq!(get(address, "/old/", "").text(), "the old index");
    let listing = get(address, "/without/", "");
    assert_eq!(listing.header("Content-Type"), Some("text/html; charset=utf-8"));
    assert!(listing.text().contains("href=\"./index.html/\""));
}

/// The names that a listing shows, in their order.
fn shown(page: &str) -> Vec<&str> {
    let names = page.match_indices("<bdi>").map(|(at, tag)| &page[at + tag.len()..]);
    names.map(|rest| rest.split("</bdi>").next().unwrap()).collect()
}

#[test]
fn a_large_folder_is_sorted_as_a_whole_and_has_pages() {
    const FILES: usize = 10_001;
    const FOLDERS: usize = 300;
    let (_folder, _server, address) = site(|path| {
        for number in 0..FILES {
            let file = File::create(path.join(format!("f{number:05}"))).unwrap();
            let time = UNIX_EPOCH + Duration::from_secs(1_000_000 + number as u64);
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        }
        for number in 0..FOLDERS {
            fs::create_dir(path.join(format!("d{number:03}"))).unwrap();
        }
    });
    let expected: Vec<String> = (0..FOLDERS)
        .map(|number| format!("d{number:03}/"))
        .chain((0..FILES).map(|number| format!("f{number:05}")))
        .collect();
    let mut found = Vec::new();
    for page in 1..=11 {
        let answer = get(address, &format!("/?page={page}"), "");
        assert!(answer.text().contains(&format!("Page {page} of 11")));
        assert!(answer.text().contains("300 folders, 10001 files, "));
        found.extend(shown(answer.text()).into_iter().map(str::to_owned));
    }
    assert_eq!(found, expected, "each entry is on one page, in order");
    let newest = get(address, "/?sort=modified&order=desc", "");
    let first_file = shown(newest.text()).into_iter().find(|name| name.starts_with('f'));
    assert_eq!(first_file, Some("f10000"));
    assert!(newest.text().contains("href=\"?sort=modified&amp;order=desc&amp;page=2\""));
    // Numbers beyond the last page, and texts that are not the number of a page.
    for (page, number) in
        [("12", 11), ("99999999999999999999999", 1), ("0", 1), ("-1", 1), ("x", 1)]
    {
        let answer = get(address, &format!("/?page={page}"), "");
        assert!(answer.text().contains(&format!("Page {number} of 11")), "{page}");
    }
}

#[test]
fn listings_are_sorted_as_asked_for() {
    let (_folder, _server, address) = site(|path| {
        for (name, size, age) in [("b.txt", 30, 1), ("A.txt", 10, 2), ("c.txt", 20, 3)] {
            let file = File::create(path.join(name)).unwrap();
            file.set_len(size).unwrap();
            let time = UNIX_EPOCH + Duration::from_secs(1_000_000 * age);
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        }
        fs::create_dir(path.join("z")).unwrap();
    });
    let cases = [
        ("", "zAbc"),
        ("?sort=name&order=asc", "zAbc"),
        ("?order=desc", "zcbA"),
        ("?sort=size", "zAcb"),
        ("?sort=size&order=desc", "zbcA"),
        ("?sort=modified", "zbAc"),
        ("?order=desc&sort=modified", "zcAb"),
        ("?sort=<script>&order=\"", "zAbc"),
    ];
    for (query, names) in cases {
        let answer = get(address, &format!("/{query}"), "");
        let page = answer.text();
        let shown: String = page
            .match_indices("<bdi>")
            .map(|(at, tag)| page[at + tag.len()..].chars().next().unwrap())
            .collect();
        assert_eq!(shown, names, "{query}");
        assert_eq!(page.matches("aria-sort=\"").count(), 1);
    }
    let answer = get(address, "/?sort=size", "");
    assert!(answer.text().contains("class=\"size\" aria-sort=\"ascending\""));
    // An empty folder says so.
    assert!(get(address, "/z/", "").text().contains("This folder is empty."));
    // The link to a folder keeps the order.
    assert!(answer.text().contains("href=\"./z/?sort=size&amp;order=asc\""));
    let answer = get(address, "/?sort=size&order=desc", "");
    assert!(answer.text().contains("class=\"size\" aria-sort=\"descending\""));
}
