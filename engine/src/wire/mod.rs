//! Zero-copy views of header bytes, one file a header, and the Internet checksum.
