//! The pages about the server itself: `/status` and `/status.json`.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use super::browser::{chromium, dump, headless};
use super::*;
use test_support::folder;

#[test]
fn figures_are_shown_where_they_are_asked_for() {
    for mixin in MIXINS {
        let (_server, address) = web(&["--status", "--mixin", mixin]);
        let page = get(address, "/status", "");
        assert_eq!(
            (page.status, page.header("Content-Type")),
            (200, Some("text/html; charset=utf-8"))
        );
        assert_eq!(page.header("Cache-Control"), Some("no-store"));
        assert!(page.header("Content-Security-Policy").unwrap().starts_with("default-src 'none';"));
        let text = page.text();
        for says in ["<h1>web</h1>", "http-equiv=\"refresh\" content=\"2\"", "serving</span>"] {
            assert!(text.contains(says), "{mixin}: {says} is not in {text}");
        }
        assert!(text.contains("<li aria-current=\"step\">ready</li>"), "{mixin}: {text}");
        // The only live request is the one for the page itself.
        assert!(text.contains("<dt>live</dt><dd>1</dd>") && text.contains("<td>running</td>"));
        assert!(!text.contains("<script"));
        assert!(!get(address, "/status?every=0", "").text().contains("http-equiv"));
        let json = get(address, "/status.json", "");
        assert_eq!(json.header("Content-Type"), Some("application/json"));
        let says = format!(
            "\"address\":\"{address}\",\"state\":\"serving\",\"phase\":\"ready\",\"live\":"
        );
        assert!(json.text().contains(&says), "{}", json.text());
        assert_eq!(get(address, "/status.jso", "").body, b"Hello, World");
    }
}

#[test]
fn the_json_is_json_of_several_servers() {
    if Command::new("python3").arg("--version").output().is_err() {
        return test_support::skip("python3 is not installed");
    }
    let (_server, addresses) = WEB.serve(&["127.0.0.1:0", "127.0.0.1:0"], &["--status"]);
    let json = get(addresses[0].parse().unwrap(), "/status.json", "");
    let code = "import json,sys; f = json.load(sys.stdin); s = f['servers'][0]; \
        print(f['program'], len(f['servers']), s['live'] > 0, s['slowest'][0]['activity'], 'per_peer' in [l['name'] for l in s['limits']])";
    let mut python = Command::new("python3");
    python.args(["-c", code]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = Process::start(&mut python);
    python.type_in(json.text());
    let ended = python.end();
    assert_eq!(ended.out, "web 2 True running True\n", "{ended:?}");
}

#[test]
fn without_the_option_there_are_no_figures() {
    let folder = folder();
    std::fs::write(folder.path().join("status"), "a file").unwrap();
    let dir = ["--dir", folder.path().to_str().unwrap()];
    let (_server, address) = web(&dir);
    assert_eq!(get(address, "/status", "").text(), "a file");
    assert_eq!(get(address, "/status.json", "").status, 404);
    let (_server, address) = web(&[&dir[..], &["--status"]].concat());
    assert!(get(address, "/status", "").text().contains("<h1>web</h1>"), "it hides the file");
}

/// An address of this machine that is not a loopback one, if there is any.
fn outer_address() -> Option<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the system chooses the address that would be used.
    socket.connect("192.0.2.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
        _ => None,
    }
}

#[test]
fn clients_of_other_machines_see_figures_only_if_all_may() {
    let Some(ip) = outer_address() else {
        return test_support::skip("this machine has no address but loopback");
    };
    for (option, page) in [("--status", false), ("--status=all", true)] {
        let (_server, addresses) = WEB.serve(&[&format!("{ip}:0")], &[option]);
        let answer = get(addresses[0].parse().unwrap(), "/status", "");
        assert_eq!(answer.text().contains("<h1>web</h1>"), page, "{option}");
    }
}

#[test]
fn a_browser_shows_the_figures_and_loads_them_again() {
    let Some(browser) = chromium() else { return };
    let (server, address) = web(&["--status", "--log"]);
    let dom = dump(browser, &format!("http://{address}/status?every=0"), &[]);
    assert!(dom.contains("<dt>live</dt>") && dom.contains("<meter"), "{dom}");
    let asked = |server: &Process| {
        std::iter::repeat_with(|| server.line()).find(|line| line.contains("GET /status")).unwrap()
    };
    assert!(asked(&server).contains("every=0"));
    // Without `every=0` the browser comes a second time by itself.
    let url = format!("http://{address}/status?every=1");
    let profile = folder();
    let mut command = headless(browser, &profile);
    let _browser = Process::start(command.arg("--remote-debugging-port=0").arg(url));
    assert!(asked(&server).contains("every=1"));
    assert!(asked(&server).contains("every=1"));
}
