"""Complete jobs on the mesh, with the data they need."""
