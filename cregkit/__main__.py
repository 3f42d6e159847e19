"""``python -m cregkit`` is the ``cregkit`` command."""

from cregkit.cli import main

raise SystemExit(main())
