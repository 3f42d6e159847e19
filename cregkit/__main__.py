"""``python -m cregkit`` is the ``cregkit`` command."""

from cregkit.commands import main

raise SystemExit(main())
