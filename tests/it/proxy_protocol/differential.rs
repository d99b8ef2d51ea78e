//! Random and mutated headers, for two parsers. The seed is fixed, so that a failure can be repeated; `fuzz/` goes on
//! from the inputs that are saved in `tests/seeds`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::compare::compare;
use super::{SIGNATURE, tlv, whole};

/// Numbers that look random (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

fn line(random: &mut Random) -> Vec<u8> {
    let port = |random: &mut Random| match random.below(8) {
        0 => "+80".to_owned(),
        1 => "080".to_owned(),
        2 => "65536".to_owned(),
        _ => random.below(65_536).to_string(),
    };
    let ports = [port(random), port(random)].join(" ");
    let v4 = |random: &mut Random| Ipv4Addr::from_bits(random.next() as u32);
    let v6 = |random: &mut Random| {
        let zeros = random.below(128);
        let bits = u128::from(random.next()) << 64 | u128::from(random.next());
        Ipv6Addr::from_bits(bits >> zeros)
    };
    let line = match random.below(5) {
        0 => "PROXY UNKNOWN\r\n".to_owned(),
        1 => format!("PROXY UNKNOWN {ports}\r\n"),
        2 | 3 => format!("PROXY TCP4 {} {} {ports}\r\n", v4(random), v4(random)),
        _ => format!("PROXY TCP6 {} {} {ports}\r\n", v6(random), v6(random)),
    };
    line.into_bytes()
}

fn binary(random: &mut Random) -> Vec<u8> {
    let family = random.pick(&[0, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32]);
    let length = [0, 12, 36, 216][usize::from(family >> 4)];
    let mut rest = random.bytes(length);
    for _ in 0..random.below(4) {
        let length = random.below(12);
        let value = match random.below(3) {
            0 => random.bytes(length),
            _ => b"example.com!"[..length].to_vec(),
        };
        rest.extend(match random.below(8) {
            0 => tlv(
                0x20,
                &[&[7, 0, 0, 0, 0][..], &tlv(0x21, b"TLSv1.3"), &tlv(0x22, &value)].concat(),
            ),
            1 => tlv(0x03, &random.bytes(4)),
            2 => tlv(random.next() as u8, &value),
            _ => tlv(random.pick(&[1, 2, 4, 5, 0x30, 0xe0]), &value),
        });
    }
    whole(random.pick(&[0x20, 0x21, 0x21, 0x21]), family, &rest)
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len());
    match random.below(6) {
        0 => bytes[at] = random.next() as u8,
        1 => bytes[at] ^= 1 << random.below(8),
        2 => _ = bytes.remove(at),
        3 => bytes.insert(at, random.pick(b" \r\n0:.P\0")),
        4 => bytes.truncate(at),
        _ => {
            let from = random.below(bytes.len());
            let end = (from + random.below(20)).min(bytes.len());
            let part = bytes[from..end].to_vec();
            bytes.splice(at..at, part);
        }
    }
}

#[test]
fn another_parser_sees_the_same_in_random_headers() {
    let mut random = Random(0x5eed_0fa4_0ead_e45f);
    for _ in 0..30_000 {
        let mut bytes = if random.below(2) == 0 { line(&mut random) } else { binary(&mut random) };
        for _ in 0..random.below(4) {
            if !bytes.is_empty() {
                mutate(&mut random, &mut bytes);
            }
        }
        let behind = random.below(30);
        bytes.extend(random.bytes(behind));
        compare(&bytes);
    }
}

#[test]
fn another_parser_sees_the_same_in_noise() {
    let mut random = Random(0x0b5e_55ed);
    for _ in 0..30_000 {
        let beginning =
            random.pick(&[&b""[..], b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", SIGNATURE]);
        let length = random.below(60);
        compare(&[beginning, &random.bytes(length)].concat());
    }
}
