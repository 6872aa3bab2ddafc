"""white.py FILE: whether more than half of a PNG's pixels (8 bits a channel, not interlaced) are white."""
import struct
import sys
import zlib

data = open(sys.argv[1], "rb").read()
at, packed = 8, b""
while at < len(data):
    length, kind = struct.unpack(">I4s", data[at : at + 8])
    body = data[at + 8 : at + 8 + length]
    if kind == b"IHDR":
        width, height, depth, colours, _, _, interlace = struct.unpack(">IIBBBBB", body)
    elif kind == b"IDAT":
        packed += body
    at += 12 + length
assert depth == 8 and colours in (2, 6) and interlace == 0, (depth, colours, interlace)
size = 3 if colours == 2 else 4
rows, stride = zlib.decompress(packed), width * size
above, white = bytearray(stride), 0
for y in range(height):
    kind, row = rows[y * (stride + 1)], bytearray(rows[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
    for x in range(stride if kind else 0):
        a, b, c = (row[x - size], above[x], above[x - size]) if x >= size else (0, above[x], 0)
        p = a + b - c
        nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
        row[x] = row[x] + (0, a, b, (a + b) // 2, nearest)[kind] & 255
    white += sum(row[x : x + 3] == b"\xff\xff\xff" for x in range(0, stride, size))
    above = row
print(f"{white} of {width * height} pixels are white")
sys.exit(white * 2 < width * height)
