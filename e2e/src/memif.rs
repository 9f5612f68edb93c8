//! Device strings for `net_memif`: two processes joined by shared memory, without the kernel in between.

use std::path::Path;

/// Which end of a memif a process is. The server makes the socket and has to be there first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Listens on the socket.
    Server,
    /// Connects to it.
    Client,
}

/// The device string of one end of the link `name`; its socket lies in `dir`. `index` numbers the memif devices of
/// one process. Rings have 16,384 places, the most there can be: whoever is at the other end shares its core, and may
/// not run for a while.
pub fn device(index: usize, dir: &Path, name: &str, end: End) -> String {
    let role = if end == End::Server {
        "server"
    } else {
        "client"
    };
    let socket = dir.join(format!("{name}.sock"));
    format!(
        "net_memif{index},role={role},id=0,socket={},socket-abstract=no,rsize=14,bsize=2048",
        socket.display()
    )
}
