//! Connections: which stay open, how requests are cut, and the limits of time.

use super::*;

#[test]
fn a_connection_stays_or_closes_as_the_client_says() {
    let (_server, address) = web(&[]);
    let cases = [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "connection: Foo, CLOSE\r\n", false),
        ("1.1", "Connection: close, keep-alive\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
    ];
    for (version, headers, stays) in cases {
        for _ in 0..2 {
            let mut client = Client::new(address);
            let answer = client.ask(format!("GET / HTTP/{version}\r\nHost: here\r\n{headers}\r\n"));
            assert_eq!((answer.status, &answer.body[..]), (200, HELLO));
            let says = match (stays, version) {
                (false, _) => Some("close"),
                (true, "1.0") => Some("keep-alive"),
                (true, _) => None,
            };
            assert_eq!(answer.header("Connection"), says, "{version} {headers}");
            if stays { client.assert_open() } else { client.assert_closed() }
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_and_by_one_send() {
    let (_server, address) = web(&[]);
    let mut client = connect(address);
    // One answer is read for its length: all are equally long.
    client.write_all(GET.as_bytes()).unwrap();
    let mut buffer = vec![0; 65_536];
    let length = client.read(&mut buffer).unwrap();
    // The bytes of one send arrive together. After several sends, some reads would get fewer bytes.
    for _ in 0..200 {
        client.write_all(GET.repeat(16).as_bytes()).unwrap();
        assert_eq!(client.read(&mut buffer).unwrap(), 16 * length);
    }
    // The answers come in order, also when there are more of them than one send takes.
    let mut client = Client::new(address);
    let requests: String = (0..3_000)
        .map(|number| {
            let method = if number % 3 == 0 { "HEAD" } else { "GET" };
            format!("{method} /{number} HTTP/1.1\r\nHost: here\r\n\r\n")
        })
        .collect();
    let mut sender = client.reader.get_ref().try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(requests.as_bytes()).unwrap());
    for number in 0..3_000 {
        let answer = client.head();
        assert_eq!(answer.status, 200);
        if number % 3 != 0 {
            let mut body = [0; 12];
            client.reader.read_exact(&mut body).unwrap();
            assert_eq!(body, HELLO);
        }
    }
    sending.join().unwrap();
}

#[test]
fn a_request_may_come_in_any_pieces() {
    let (_server, address) = web(&[]);
    let mut client = Client::new(address);
    client.reader.get_ref().set_nodelay(true).unwrap();
    for byte in GET.as_bytes() {
        client.send([*byte]);
    }
    assert_eq!(client.answer().body, HELLO);
    // The end of one request and the beginning of the next arrive in one piece.
    client.send(&GET[..10]);
    client.send(format!("{}{}", &GET[10..], &GET[..20]));
    assert_eq!(client.answer().body, HELLO);
    client.send(&GET[20..]);
    assert_eq!(client.answer().body, HELLO);
}

#[test]
fn a_request_that_ends_in_its_middle_is_told_so() {
    let (_server, address) = web(&[]);
    for half in [
        "G",
        "GET / HTTP/1.1\r\nHost",
        "GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n12",
    ] {
        let mut client = Client::new(address);
        client.send(half);
        client.reader.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.answer().status, 400);
        client.assert_closed();
    }
    // An end between two requests is no error.
    let mut client = Client::new(address);
    client.assert_open();
    client.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    client.assert_closed();
}

#[test]
fn a_request_that_takes_too_long_is_told_so() {
    let (_server, address) = web(&["--header-timeout", "0.3"]);
    // A connection that has sent nothing ends without an answer.
    Client::new(address).assert_closed();
    for beginning in [
        "GET / HTTP/1.1\r\nHost: here\r\nA: ",
        "GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 60000\r\n\r\n",
    ] {
        // The client is silent in the middle of a request, after one that arrived in time.
        let mut client = Client::new(address);
        client.assert_open();
        assert_eq!(client.ask(beginning).status, 408);
        client.assert_closed();
        // A byte now and then does not extend the time.
        let mut client = Client::new(address);
        let mut sender = client.reader.get_ref().try_clone().unwrap();
        client.send(beginning);
        let sending = std::thread::spawn(move || {
            while sender.write_all(b"a").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        assert_eq!(client.answer().status, 408);
        client.assert_closed();
        drop(client);
        sending.join().unwrap();
    }
}

#[test]
fn silence_between_requests_ends_quietly() {
    // The timeout is long enough for the client to speak in time, even on a busy machine.
    let (server, address) = web(&["--idle-timeout", "3"]);
    let mut client = Client::new(address);
    client.assert_open();
    client.assert_closed();
    Client::new(address).assert_closed();
    server.send_signal(libc::SIGTERM);
    let ended = server.end();
    assert_ends(&ended, 0);
    assert_eq!(ended.err, "");
}

#[test]
fn a_silent_client_gives_way_where_others_wait() {
    for (mixin, workers) in [("inline", 1), ("pool", 4), ("forking", 40)] {
        let (_server, address) = web(&["--mixin", mixin, "--max-per-peer", "100"]);
        // There are more silent clients than workers, and all of them stay.
        let mut silent: Vec<Client> = (0..workers + 2).map(|_| Client::new(address)).collect();
        let mut client = Client::new(address);
        assert_eq!(client.get("/", "").body, HELLO, "{mixin}");
        silent.iter_mut().for_each(Client::assert_closed);
    }
}

#[test]
fn an_idle_connection_does_not_delay_the_end() {
    for mixin in ["threading", "forking"] {
        let (server, address) = web(&["--mixin", mixin, "--grace", "600"]);
        let mut client = Client::new(address);
        client.assert_open();
        server.send_signal(libc::SIGTERM);
        client.assert_closed();
        let ended = server.end();
        assert_ends(&ended, 0);
        assert_eq!(ended.err, "");
    }
}

#[test]
fn a_request_that_has_begun_is_answered_before_the_end() {
    let (server, address) = web(&["--grace", "600"]);
    let mut idle = Client::new(address);
    let mut busy = Client::new(address);
    idle.assert_open();
    busy.send("GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(busy.answer().status, 100);
    server.send_signal(libc::SIGTERM);
    // The drain has begun.
    idle.assert_closed();
    let answer = busy.ask("x");
    assert_eq!((&answer.body[..], answer.header("Connection")), (HELLO, Some("close")));
    busy.assert_closed();
    assert_ends(&server.end(), 0);
}
