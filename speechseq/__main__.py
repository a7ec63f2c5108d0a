"""python -m speechseq."""

from speechseq.cli import run

if __name__ == "__main__":
    run()
