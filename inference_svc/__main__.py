"""Run inference_svc: `python -m inference_svc`."""

from inference_svc.process import main

if __name__ == "__main__":
    main()
