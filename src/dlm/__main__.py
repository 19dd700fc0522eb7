"""`python -m dlm`, the same as `dlm`."""

from dlm.cli.main import run_program

if __name__ == "__main__":
    run_program()
