"""Segment what sounds in videos: predict.py VIDEO ... --model CONFIG --checkpoint FILE --out DIR (avsmamba predict)."""

import sys

from avsmamba.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
