//! A master, its replica, and a Sentinel that promotes the replica.

use std::io::{Read, Write};

use super::*;
use test_support::eventually;

/// A master and a replica with these options, and with the same data.
fn master_and_replica(options: &[&str]) -> (Server, Server) {
    let master = Server::start(options);
    let of = format!("127.0.0.1 {}", master.port);
    let replica = Server::start(&[options, &["--replicaof", &of]].concat());
    replica.says("Finished with success");
    (master, replica)
}

#[test]
fn a_replica_is_refused_and_names_its_master() {
    if skip_if(no_redis()) {
        return;
    }
    let (master, replica) = master_and_replica(&[]);
    let refused = refusal(&["--bus", &format!("redis://127.0.0.1:{}/room", replica.port)]);
    let its_master = format!("its master is at 127.0.0.1:{}", master.port);
    assert!(refused.contains("it is a replica") && refused.contains(&its_master), "{refused}");
}

/// A Sentinel that tells every client that the master is at this port.
fn says_it_is_at(port: u16) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let place = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer =
                format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.to_string().len());
            // The write fails if the server of the room has ended.
            let _ = stream.read(&mut [0; 1024]).and_then(|_| stream.write_all(answer.as_bytes()));
        }
    });
    place
}

#[test]
fn a_sentinel_that_has_slept_through_a_failover_is_followed_by_the_next_one() {
    if skip_if(no_redis()) {
        return;
    }
    let (master, replica) = master_and_replica(&[]);
    let (stale, fresh) = (says_it_is_at(replica.port), says_it_is_at(master.port));
    let refused = refusal(&["--bus", &format!("redis+sentinel://{stale}/room/lobby")]);
    let says = format!("the Sentinel at {stale} says that it is at 127.0.0.1:{}", replica.port);
    assert!(refused.contains(&says) && refused.contains("it is a replica"), "{refused}");
    hear_each_other(&["--bus", &format!("redis+sentinel://{stale},{fresh}/room/lobby")]);
}

#[test]
fn after_a_failover_the_sentinels_lead_to_the_new_master() {
    if skip_if(no_redis()) {
        return;
    }
    let own = ["--requirepass", "s3cret", "--masterauth", "s3cret"];
    let (master, replica) = master_and_replica(&own);
    let sentinel = Server::sentinel(master.port, "s3cret");
    eventually("the Sentinel knows the replica", || {
        let replicas = sentinel.ask_as(":sent1nel@", "SENTINEL", &["REPLICAS", "room"]);
        format!("{replicas:?}").contains(&replica.port.to_string())
    });
    let folder = folder();
    let [password, of_sentinel] = ["s3cret", "sent1nel"].map(|text| {
        let path = folder.path().join(text);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    });
    // The first Sentinel is down.
    let at = format!("127.0.0.1:1,127.0.0.1:{}", sentinel.port);
    let bus = format!("redis+sentinel://{at}/room/lobby");
    let options = ["--bus", &bus, "--bus-password-file", &password];
    let without = refusal(&options);
    assert!(without.contains("--bus-sentinel-password-file"), "{without}");
    let options = [&options[..], &["--bus-sentinel-password-file", &of_sentinel]].concat();
    let unknown = bus.replace("/room/", "/other/");
    let unknown = refusal(&[&["--bus", &unknown], &options[2..]].concat());
    assert!(unknown.contains("it knows no master other"), "{unknown}");
    // First a Sentinel is given as a server, and then a server as a Sentinel.
    let as_server = format!("redis://127.0.0.1:{}/lobby", sentinel.port);
    let wrong = refusal(&["--bus", &as_server, "--bus-password-file", &of_sentinel]);
    assert!(wrong.contains("it is a Sentinel; write redis+sentinel://"), "{wrong}");
    let as_sentinel = format!("redis+sentinel://127.0.0.1:{}/room/lobby", master.port);
    let wrong = refusal(&["--bus", &as_sentinel, "--bus-sentinel-password-file", &password]);
    assert!(wrong.contains("is it a Sentinel?"), "{wrong}");

    let (one, at_one) = joined("one", &options);
    let (two, at_two) = joined("two", &options);
    let (mut alice, mut bob) = (Member::join(at_one, "alice"), Member::join(at_two, "bob"));
    alice.sees("* bob@two has joined");
    bob.say("before");
    assert_eq!(alice.hears(), "bob@two: before");
    master.send_signal(libc::SIGKILL);
    for server in [&one, &two] {
        operator_reads(server, LOST);
        operator_reads(server, JOINED);
    }
    let role = replica.ask_as(":s3cret@", "ROLE", &[]);
    assert!(format!("{role:?}").contains("master"), "{role:?}");
    bob.say("after");
    assert_eq!(alice.hears(), "bob@two: after");
    alice.say("as well");
    assert_eq!(bob.hears(), "alice@one: as well");
}
