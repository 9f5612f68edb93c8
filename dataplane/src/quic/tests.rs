//! The draft's vectors, the law of coding and decoding, and an independent reading of the draft.

use super::encode::{Encoder, FirstOctet};
use super::*;
use proptest::prelude::*;
use weir_shm::model::{QuicConfig, QuicKey, ServerId};

fn config(rotation: u8, id: usize, nonce: usize, key: Option<&str>) -> QuicConfig {
    QuicConfig {
        rotation,
        server_id_length: id as u8,
        nonce_length: nonce as u8,
        key: key.map(|key| key.parse().unwrap()),
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn id(text: &str) -> ServerId {
    text.parse().unwrap()
}

/// Key, rotation, server ID, nonce and connection ID of the draft's appendix B and of the worked
/// example in its section 5.4.2.3, with two corrections of errors in the draft: the first octet of
/// the vector of rotation 3 is 72, not 12 (the rotation is in the top three bits, and the other
/// vectors have the length in the rest); the plaintext vector of rotation 1 has a nonce of nine
/// nibbles and is left out.
const VECTORS: &[(Option<&str>, u8, &str, &str, &str)] = &[
    (None, 0, "c4605e", "4504cc4f", "07c4605e4504cc4f"),
    (KEY, 0, "ed793a", "ee080dbf", "0720b1d07b359d3c"),
    (
        KEY,
        1,
        "ed793a51d49b8f5fab65",
        "ee080dbf48",
        "2fcc381bc74cb4fbad2823a3d1f8fed2",
    ),
    (
        KEY,
        2,
        "ed793a51d49b8f5f",
        "ee080dbf48c0d1e5",
        "504dd2d05a7b0de9b2b9907afb5ecf8cc3",
    ),
    (
        KEY,
        3,
        "ed793a51d49b8f5fab",
        "ee080dbf48c0d1e55d",
        "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc",
    ),
    (
        Some("fdf726a9893ec05c0632d3956680baf0"),
        0,
        "31441a",
        "9c69c275",
        "0767947d29be054a",
    ),
];
const KEY: Option<&str> = Some("8f95f09245765f80256934e50c66207f");

#[test]
fn the_drafts_vectors_hold() {
    for (key, rotation, server, nonce, expected) in VECTORS {
        let (server, nonce, expected) = (id(server), hex(nonce), hex(expected));
        let config = config(*rotation, server.octets().len(), nonce.len(), *key);
        let encoder = Encoder::new(&config, FirstOctet::Length).unwrap();
        assert_eq!(
            encoder.encode(&server, &nonce).unwrap()[..],
            expected,
            "{server}"
        );
        let quic = Quic::new(&[config], [(*rotation, server, 17)]);
        assert_eq!(quic.decode(&expected), Some((*rotation, server)));
        assert_eq!(quic.backend_of(&expected), Some(17));
    }
}

#[test]
fn the_draft_as_printed_names_another_rotation() {
    // Why the vector above is corrected: as printed, its first bits say rotation 0.
    let printed = hex("125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc");
    assert_eq!(printed[0] >> 5, 0);
    let quic = Quic::new(&[config(3, 9, 9, KEY)], [(3, id("ed793a51d49b8f5fab"), 1)]);
    assert_eq!(quic.backend_of(&printed), None);
}

#[test]
fn several_configurations_live_at_once() {
    let all: Vec<QuicConfig> = VECTORS[1..5]
        .iter()
        .map(|(key, rotation, server, nonce, _)| {
            config(*rotation, server.len() / 2, nonce.len() / 2, *key)
        })
        .collect();
    let ids = VECTORS[1..5]
        .iter()
        .map(|(_, rotation, server, ..)| (*rotation, id(server), 100 + u32::from(*rotation)));
    let quic = Quic::new(&all, ids);
    for (_, rotation, _, _, cid) in &VECTORS[1..5] {
        assert_eq!(quic.backend_of(&hex(cid)), Some(100 + u32::from(*rotation)));
    }
}

#[test]
fn an_unroutable_id_names_no_backend() {
    let quic = Quic::new(&[config(0, 3, 4, None)], [(0, id("c4605e"), 1)]);
    let routable = hex("07c4605e4504cc4f");
    assert_eq!(quic.backend_of(&routable), Some(1));
    // Longer is fine: servers may append octets.
    assert_eq!(
        quic.backend_of(&[&routable[..], &[9; 12]].concat()),
        Some(1)
    );
    // Too short for the configuration.
    for end in 0..routable.len() {
        assert_eq!(quic.backend_of(&routable[..end]), None, "{end}");
    }
    // No configuration of the rotation; the reserved one; no server of the ID.
    assert_eq!(quic.backend_of(&hex("27c4605e4504cc4f")), None);
    assert_eq!(quic.backend_of(&hex("e7c4605e4504cc4f")), None);
    assert_eq!(quic.backend_of(&hex("07c4605f4504cc4f")), None);
    let reserved = Quic::new(&[config(7, 3, 4, None)], [(7, id("c4605e"), 1)]);
    assert_eq!(reserved.backend_of(&hex("e7c4605e4504cc4f")), None);
}

#[test]
fn the_first_packets_header_decides() {
    let quic = Quic::new(&[config(0, 3, 4, None)], [(0, id("c4605e"), 1)]);
    let cid = hex("07c4605e4504cc4f");
    let long = |first: u8, version: &[u8; 4]| {
        [&[first][..], version, &[cid.len() as u8], &cid, &[0; 30]].concat()
    };
    let handshake = long(0xe1, &[0, 0, 0, 1]);
    let initial = long(0xc1, &[0, 0, 0, 1]);
    assert_eq!(
        quic.backend(&[&[0x41][..], &cid, &[0; 20]].concat()),
        Some(1)
    );
    assert_eq!(quic.backend(&handshake), Some(1));
    assert_eq!(
        quic.backend(&long(0xc1, &[0x1a, 0x2a, 0x3a, 0x4a])),
        Some(1)
    );
    assert_eq!(quic.backend(&initial), None);
    // Coalesced: what comes first counts.
    assert_eq!(quic.backend(&[&initial[..], &handshake].concat()), None);
    assert_eq!(quic.backend(&[&handshake[..], &initial].concat()), Some(1));
    // A long header's ID ends where it says, whatever follows.
    let cut = [&[0xe1, 0, 0, 0, 1, 4][..], &cid, &[0; 30]].concat();
    assert_eq!(quic.backend(&cut), None);
    for end in 0..handshake.len() {
        let _ = quic.backend(&handshake[..end]);
    }
}

/// The draft's section 5.4 word by word, on strings of hexadecimal digits: slow, and sharing nothing
/// but AES itself with what it checks.
mod by_the_book {
    use aes::Aes128;
    use aes::cipher::{BlockCipherEncrypt, KeyInit};

    pub fn hex(octets: &[u8]) -> String {
        octets.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    fn aes_ecb(key: &[u8; 16], input: &str) -> String {
        let mut block: [u8; 16] = super::hex(input).try_into().unwrap();
        let mut cells = block.into();
        Aes128::new(&(*key).into()).encrypt_block(&mut cells);
        block = cells.into();
        hex(&block)
    }

    fn expand(length: usize, pass: usize, input: &str) -> String {
        let zeros = "0".repeat(28 - input.len());
        format!("{input}{zeros}{length:02x}{pass:02x}")
    }

    fn xor(a: &str, b: &str) -> String {
        let digit = |c: char| c.to_digit(16).unwrap();
        a.chars()
            .zip(b.chars())
            .map(|(a, b)| char::from_digit(digit(a) ^ digit(b), 16).unwrap())
            .collect()
    }

    fn clear_first(half: &str) -> String {
        format!("0{}", &half[1..])
    }

    fn clear_last(half: &str) -> String {
        format!("{}0", &half[..half.len() - 1])
    }

    /// The connection ID behind its first octet.
    pub fn encrypt(key: &[u8; 16], server_id: &[u8], nonce: &[u8]) -> Vec<u8> {
        let plain = hex(server_id) + &hex(nonce);
        let len = plain.len() / 2;
        if len == 16 {
            return super::hex(&aes_ecb(key, &plain));
        }
        let half = len.div_ceil(2);
        let odd = len % 2 == 1;
        let mut left = plain[..2 * half].to_owned();
        let mut right = plain[plain.len() - 2 * half..].to_owned();
        if odd {
            (left, right) = (clear_last(&left), clear_first(&right));
        }
        for pass in 1..=4 {
            if pass % 2 == 1 {
                right = xor(&right, &aes_ecb(key, &expand(len, pass, &left)));
                if odd {
                    right = clear_first(&right);
                }
            } else {
                left = xor(&left, &aes_ecb(key, &expand(len, pass, &right)));
                if odd {
                    left = clear_last(&left);
                }
            }
        }
        let joined = if odd {
            left[..left.len() - 1].to_owned() + &right[1..]
        } else {
            left + &right
        };
        super::hex(&joined)
    }
}

/// Configurations of every length, with a server ID and a nonce.
fn encodings() -> impl Strategy<Value = (QuicConfig, Vec<u8>, Vec<u8>)> {
    (1usize..=15, 4usize..=18, 0u8..7, any::<Option<[u8; 16]>>())
        .prop_filter("19 octets at most", |(id, nonce, ..)| id + nonce <= 19)
        .prop_flat_map(|(id, nonce, rotation, key)| {
            let config = QuicConfig {
                rotation,
                server_id_length: id as u8,
                nonce_length: nonce as u8,
                key: key.map(QuicKey),
            };
            let octets = |len| proptest::collection::vec(any::<u8>(), len);
            (Just(config), octets(id), octets(nonce))
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_was_encoded_is_decoded(
        (config, server, nonce) in encodings(),
        bits in any::<Option<u8>>(),
        behind in 0usize..20,
    ) {
        let server = ServerId::new(&server).unwrap();
        let first = bits.map_or(FirstOctet::Length, FirstOctet::Random);
        let cid = Encoder::new(&config, first).unwrap().encode(&server, &nonce).unwrap();
        prop_assert_eq!(cid.len(), 1 + usize::from(config.server_id_length + config.nonce_length));
        let quic = Quic::new(&[config], [(config.rotation, server, 3)]);
        // As a long header gives it, and as a short one does, with the packet behind.
        let followed = [&cid[..], &vec![0xa5; behind]].concat();
        for bytes in [&cid[..], &followed] {
            prop_assert_eq!(quic.decode(bytes), Some((config.rotation, server)));
            prop_assert_eq!(quic.backend_of(bytes), Some(3));
        }
        prop_assert_eq!(quic.backend_of(&cid[..cid.len() - 1]), None);
    }

    #[test]
    fn the_draft_read_word_by_word_gives_the_same(
        (config, server, nonce) in encodings(),
        key in any::<[u8; 16]>(),
    ) {
        let config = QuicConfig { key: Some(QuicKey(key)), ..config };
        let encoder = Encoder::new(&config, FirstOctet::Length).unwrap();
        let cid = encoder.encode(&ServerId::new(&server).unwrap(), &nonce).unwrap();
        prop_assert_eq!(&cid[1..], by_the_book::encrypt(&key, &server, &nonce));
        prop_assert_eq!(cid[0], config.rotation << 5 | (cid.len() - 1) as u8);
    }

    #[test]
    fn no_datagram_is_too_strange(
        configs in proptest::collection::vec(encodings(), 0..7),
        datagram in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let all: Vec<QuicConfig> = configs.iter().map(|(config, ..)| *config).collect();
        let ids = configs
            .iter()
            .map(|(config, id, _)| (config.rotation, ServerId::new(id).unwrap(), 1));
        let quic = Quic::new(&all, ids);
        if let Some(number) = quic.backend(&datagram) {
            prop_assert_eq!(number, 1);
        }
    }
}

proptest! {
    #[test]
    fn a_burst_is_decoded_as_its_datagrams_are_one_by_one(
        configs in proptest::collection::vec(encodings(), 1..4),
        order in proptest::collection::vec((any::<proptest::sample::Index>(), 0u8..4), 0..40),
    ) {
        // Each pair is a service of its own, so that rotations may repeat.
        let services: Vec<(Quic, Vec<u8>)> = (10u32..)
            .zip(&configs)
            .map(|(number, (config, id, nonce))| {
                let id = ServerId::new(id).unwrap();
                let encoder = Encoder::new(config, FirstOctet::Length).unwrap();
                let cid = encoder.encode(&id, nonce).unwrap();
                (Quic::new(&[*config], [(config.rotation, id, number)]), cid.to_vec())
            })
            .collect();
        let datagrams: Vec<(&Quic, Vec<u8>)> = order
            .iter()
            .map(|(index, kind)| {
                let (quic, cid) = &services[index.index(services.len())];
                let datagram = match kind {
                    0 => [&[0x41][..], cid, &[7; 20]].concat(),
                    1 => [&[0xe1, 0, 0, 0, 1, cid.len() as u8][..], cid, &[7; 20]].concat(),
                    2 => [&[0xc1, 0, 0, 0, 1, cid.len() as u8][..], cid, &[7; 20]].concat(),
                    _ => [&[0x41][..], &cid[..cid.len() - 1]].concat(),
                };
                (quic, datagram)
            })
            .collect();
        let mut burst: Burst<'_, 64> = Burst::new();
        let mut named: Vec<Option<u32>> = Vec::new();
        for (place, (quic, datagram)) in (0u8..).zip(&datagrams) {
            named.push(burst.read(place, quic, datagram));
        }
        burst.open(|place, number| named[usize::from(place)] = number);
        let one_by_one = datagrams.iter().map(|(quic, datagram)| quic.backend(datagram));
        prop_assert_eq!(named, one_by_one.collect::<Vec<_>>());
    }
}

#[test]
fn the_worked_example_of_the_text_holds_by_the_book() {
    let key: [u8; 16] = hex("fdf726a9893ec05c0632d3956680baf0").try_into().unwrap();
    let body = by_the_book::encrypt(&key, &hex("31441a"), &hex("9c69c275"));
    assert_eq!(by_the_book::hex(&body), "67947d29be054a");
}

/// Connection IDs of every length, made by `scripts/quic-lb-vectors.py`: an implementation that
/// shares nothing with this one, with OpenSSL's AES.
#[test]
fn vectors_of_an_independent_implementation_hold() {
    let mut checked = 0;
    for line in include_str!("../../tests/data/quic-lb-vectors.txt").lines() {
        if line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [rotation, key, server, nonce, cid] = words[..] else {
            panic!("{line}");
        };
        let (server, nonce, cid) = (id(server), hex(nonce), hex(cid));
        let key = (key != "-").then_some(key);
        let rotation = rotation.parse().unwrap();
        let config = config(rotation, server.octets().len(), nonce.len(), key);
        let encoder = Encoder::new(&config, FirstOctet::Length).unwrap();
        assert_eq!(encoder.encode(&server, &nonce).unwrap()[..], cid, "{line}");
        let quic = Quic::new(&[config], [(rotation, server, 1)]);
        assert_eq!(quic.decode(&cid), Some((rotation, server)), "{line}");
        checked += 1;
    }
    // Every pair of lengths, with and without a key.
    assert_eq!(checked, 2 * (1..=15).map(|id| 19 - id - 3).sum::<usize>());
}
