"""``python -m infra.delivery VERB``."""

from infra.delivery.cli import main

if __name__ == "__main__":
    main()
