"""`python -m badhands.label`: the labelling page; see `badhands.labeling.command`."""

from badhands.labeling.command import main

if __name__ == "__main__":
    main()
