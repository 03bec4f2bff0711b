import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `toy` is importable by name, for the registry too
