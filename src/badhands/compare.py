"""`python -m badhands.compare RUN RUN ...`: runs side by side; see `badhands.report.compare`."""

from badhands.report.compare import main

if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(str(error)) from None
