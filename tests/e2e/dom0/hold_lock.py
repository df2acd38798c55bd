"""Locks an image as QEMU does that writes to it, for some seconds: hold_lock.py IMAGE SECONDS. Prints a line once it has."""

import fcntl
import struct
import sys
import time

F_OFD_SETLK = 37
# block/file-posix.c: one byte for each permission that is used, and for each that others must not have.
READ, WRITE = 0, 1
USED, DENIED = 100, 200

image = open(sys.argv[1], "r+b")
for byte in (USED + READ, USED + WRITE, DENIED + WRITE):
    fcntl.fcntl(image, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, byte, 1, 0))
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
