"""The entry point of the bundle: the command of the installed package."""

from transcribe_mcp.__main__ import main

if __name__ == "__main__":
    main()
