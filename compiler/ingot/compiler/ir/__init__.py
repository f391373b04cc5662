"""The three levels of the intermediate representation: graph, loop nest, program."""
