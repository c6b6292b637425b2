"""What people and programs talk to. Each front end sees ``service`` and ``errors`` only, never another one."""
