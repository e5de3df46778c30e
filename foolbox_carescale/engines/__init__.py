"""Root finders for the rescaling factor: one interface, one module per machine."""
