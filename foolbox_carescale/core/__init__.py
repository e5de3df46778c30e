"""What operators and engines share: tensors of any framework, one checked call, closed forms."""
