//! The connection IDs of a burst, decoded together.
//!
//! Plaintext is read at once. What is encrypted is set aside until all datagrams were looked at, and
//! then goes through AES configuration by configuration: the blocks of several packets overlap there,
//! and what it costs to begin is paid once.

use arrayvec::ArrayVec;

use super::decode::{Decoder, Text};
use super::feistel::Halves;
use super::header::{self, Destination};
use super::{Directory, Quic};

/// An encrypted connection ID.
#[derive(Debug)]
struct Sealed<'a> {
    decoder: &'a Decoder,
    directory: &'a Directory,
    text: Halves,
    rotation: u8,
    /// Whose it is.
    place: u8,
}

impl AsMut<Halves> for Sealed<'_> {
    #[inline]
    fn as_mut(&mut self) -> &mut Halves {
        &mut self.text
    }
}

/// Encrypted connection IDs of up to `N` datagrams.
#[derive(Debug, Default)]
pub struct Burst<'a, const N: usize>(ArrayVec<Sealed<'a>, N>);

impl<'a, const N: usize> Burst<'a, N> {
    /// Without any.
    #[must_use]
    pub const fn new() -> Self {
        Self(ArrayVec::new_const())
    }

    /// Hot: the number of the backend that a datagram's first packet is for, if its connection ID is
    /// plaintext and routable. An encrypted one is set aside for [`Burst::open`], under `place`.
    #[inline]
    pub fn read(&mut self, place: u8, quic: &'a Quic, datagram: &[u8]) -> Option<u32> {
        let Destination::Server(cid) = header::destination(datagram) else {
            return None;
        };
        let rotation = cid.first()? >> 5;
        let decoder = quic.by_rotation.get(usize::from(rotation))?.as_ref()?;
        let directory = &quic.directory;
        match decoder.take(cid)? {
            Text::Plain(id) => directory.get(rotation, id),
            Text::Sealed(text) => {
                // A datagram more than there is room for is steered by its addresses.
                let _ = self.0.try_push(Sealed {
                    decoder,
                    directory,
                    text,
                    rotation,
                    place,
                });
                None
            }
        }
    }

    /// Hot: decodes what was set aside; tells the place of each and the number of its backend, if a
    /// backend has its server ID.
    #[inline]
    pub fn open(mut self, mut tell: impl FnMut(u8, Option<u32>)) {
        let mut rest = self.0.as_mut_slice();
        while let Some(first) = rest.first() {
            let decoder = first.decoder;
            let is_ours = |sealed: &Sealed<'_>| std::ptr::eq(sealed.decoder, decoder);
            // Those of one configuration come to the front; they are all, in most bursts.
            let mut ours = rest.iter().take_while(|sealed| is_ours(sealed)).count();
            let mut at = ours;
            while let Some(sealed) = rest.get(at) {
                if is_ours(sealed) {
                    rest.swap(at, ours);
                    ours += 1;
                }
                at += 1;
            }
            let (these, others) = rest.split_at_mut(ours);
            decoder.open(these);
            for sealed in these {
                let id = decoder.server_id_of(sealed.text);
                tell(sealed.place, sealed.directory.get(sealed.rotation, id));
            }
            rest = others;
        }
    }
}
