//! One harness for the fuzzer of QUIC datagrams and for its kept corpus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::sync::LazyLock;

use weir::quic::encode::{Encoder, FirstOctet};
use weir::quic::header::{Destination, destination};
use weir::quic::{Burst, Quic};
use weir_shm::model::{QuicConfig, QuicKey, ServerId};

/// Every kind of configuration, with short IDs, so that the fuzzer finds some: plaintext, one block, four passes over
/// even and odd lengths, and an ID longer than its nonce.
const CONFIGS: [(u8, u8, u8, bool); 6] = [
    (0, 1, 4, false),
    (1, 1, 15, true),
    (2, 1, 5, true),
    (3, 1, 4, true),
    (4, 15, 4, true),
    (6, 8, 8, false),
];

fn config((rotation, server_id_length, nonce_length, encrypted): (u8, u8, u8, bool)) -> QuicConfig {
    QuicConfig {
        rotation,
        server_id_length,
        nonce_length,
        key: encrypted.then_some(QuicKey([rotation; 16])),
    }
}

fn id(config: &QuicConfig, number: u32) -> ServerId {
    let octets = [number as u8; 15];
    ServerId::new(&octets[..usize::from(config.server_id_length)]).unwrap()
}

static QUIC: LazyLock<Quic> = LazyLock::new(|| {
    let configs = CONFIGS.map(config);
    let ids = configs
        .iter()
        .flat_map(|config| (0..128).map(|number| (config.rotation, id(config, number), number)));
    Quic::new(&configs, ids)
});

/// Finds the backend of one datagram in every way.
pub fn play(datagram: &[u8]) {
    let found = QUIC.backend(datagram);
    // In a burst, among others of every kind of configuration and one that is cut short.
    let mut all: Vec<Vec<u8>> = (0..4u8)
        .map(|more| datagram.iter().map(|octet| octet ^ (more << 5)).collect())
        .collect();
    all.push(datagram[..datagram.len() / 2].to_vec());
    let mut burst: Burst<'_, 8> = Burst::new();
    let mut named: Vec<Option<u32>> = Vec::new();
    for (place, datagram) in (0u8..).zip(&all) {
        named.push(burst.read(place, &QUIC, datagram));
    }
    burst.open(|place, number| named[usize::from(place)] = number);
    for (named, datagram) in named.into_iter().zip(&all) {
        assert_eq!(named, QUIC.backend(datagram));
    }
    let Destination::Server(cid) = destination(datagram) else {
        assert_eq!(found, None);
        return;
    };
    assert_eq!(found, QUIC.backend_of(cid));
    let decoded = QUIC.decode(cid);
    let Some(number) = found else { return };
    let (rotation, server) = decoded.unwrap();
    let config = config(
        CONFIGS
            .into_iter()
            .find(|config| config.0 == rotation)
            .unwrap(),
    );
    assert_eq!(server, id(&config, number));
    let len = 1 + usize::from(config.server_id_length + config.nonce_length);
    assert!(cid.len() >= len);
    // Neither what is behind the ID nor the first octet's low bits matter; one octet less is none.
    let mut alone = cid[..len].to_vec();
    alone[0] ^= 0x1f;
    assert_eq!(QUIC.backend_of(&alone), found);
    assert_eq!(QUIC.backend_of(&cid[..len - 1]), None);
    // What the server would write for this ID leads back, too.
    let nonce = vec![datagram[0]; usize::from(config.nonce_length)];
    let encoder = Encoder::new(&config, FirstOctet::Random(datagram[0])).unwrap();
    let made = encoder.encode(&server, &nonce).unwrap();
    assert_eq!(QUIC.backend_of(&made), found);
}
