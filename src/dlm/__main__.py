"""`python -m dlm`, the same as `dlm`."""

from dlm.cli.main import main

if __name__ == "__main__":
    main()
