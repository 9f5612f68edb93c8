#!/usr/bin/env python3
"""Makes dataplane/tests/data/quic-lb-vectors.txt: connection IDs of every length, encoded by an
implementation of draft-ietf-quic-load-balancers-21 that shares nothing with weir's.

It works on Python's whole numbers and takes AES from the "cryptography" package (OpenSSL's).
The output is the same at every run:

    scripts/quic-lb-vectors.py > dataplane/tests/data/quic-lb-vectors.txt
"""

import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def aes(key, block):
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(block) + encryptor.finalize()


def feistel(key, plain):
    """Section 5.4.2 with halves as numbers of 4 * len(plain) bits, so that odd lengths need no
    clearing: a half is `bits` wide, and shifts put it where the draft's octets have it."""
    length = len(plain)
    bits = 4 * length
    odd = length % 2
    octets = (length + 1) // 2
    whole = int.from_bytes(plain, "big")
    left, right = whole >> bits, whole & ((1 << bits) - 1)

    def left_octets(half):
        return (half << (4 if odd else 0)).to_bytes(octets, "big")

    def right_octets(half):
        return half.to_bytes(octets, "big")

    def stream(half_octets, number):
        block = half_octets + bytes(14 - octets) + bytes([length, number])
        return int.from_bytes(aes(key, block)[:octets], "big")

    mask = (1 << bits) - 1
    right ^= stream(left_octets(left), 1) & mask
    left ^= (stream(right_octets(right), 2) >> (4 if odd else 0)) & mask
    right ^= stream(left_octets(left), 3) & mask
    left ^= (stream(right_octets(right), 4) >> (4 if odd else 0)) & mask
    return (left << bits | right).to_bytes(length, "big")


def encode(rotation, key, server_id, nonce):
    plain = server_id + nonce
    first = bytes([rotation << 5 | len(plain)])
    if key is None:
        return first + plain
    if len(plain) == 16:
        return first + aes(key, plain)
    return first + feistel(key, plain)


def octets(label, length):
    return hashlib.shake_128(label.encode()).digest(length)


def main():
    # The draft's own, corrected where peers found it wrong (first octet of the last one).
    key = bytes.fromhex("8f95f09245765f80256934e50c66207f")
    for rotation, server_id, nonce, expected in [
        (0, "ed793a", "ee080dbf", "0720b1d07b359d3c"),
        (1, "ed793a51d49b8f5fab65", "ee080dbf48", "2fcc381bc74cb4fbad2823a3d1f8fed2"),
        (2, "ed793a51d49b8f5f", "ee080dbf48c0d1e5", "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
        (3, "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
    ]:
        found = encode(rotation, key, bytes.fromhex(server_id), bytes.fromhex(nonce))
        assert found.hex() == expected, (rotation, found.hex())
    print("# rotation, key, server ID, nonce, connection ID; made by scripts/quic-lb-vectors.py")
    for id_length in range(1, 16):
        for nonce_length in range(4, 20 - id_length):
            for keyed in (False, True):
                label = f"{id_length} {nonce_length} {keyed} "
                key = octets(label + "key", 16) if keyed else None
                server_id = octets(label + "id", id_length)
                nonce = octets(label + "nonce", nonce_length)
                rotation = (id_length + nonce_length) % 7
                cid = encode(rotation, key, server_id, nonce)
                key_text = key.hex() if key else "-"
                print(rotation, key_text, server_id.hex(), nonce.hex(), cid.hex())


main()
