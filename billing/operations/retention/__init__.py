"""Keep a bounded history in the database: archive closed months, check archives, let months go."""
