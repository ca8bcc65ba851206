"""How a generation is made, its workers started, and what is measured of them."""
