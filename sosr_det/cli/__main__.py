"""``python -m sosr_det.cli``: the command line without the installed script."""

from sosr_det.cli.main import main

if __name__ == "__main__":
    main()
