"""The page as a Space: `lift-ss serve` at the address that a Space listens at."""

import os
import sys

from lift_ss_hf.cli.lift_ss import main

if __name__ == "__main__":
    models = os.environ.get("LIFT_SS_MODELS", "bundled").split()
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    sys.argv[1:] = ["serve", "--host", "0.0.0.0", "--port", port, "--model", *models]
    main()
