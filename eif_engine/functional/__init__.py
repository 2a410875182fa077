"""Pure maths: tensors in, tensors out.

Shapes are suffixes of names:

    N  training samples        F  penultimate features (inputs of the head)
    M  test samples            D  embedding size
    G  pairs of a query        C  classes (proxies)
    R  rows of a query's pairs, 2G: first the samples, then their neighbours
    K  neighbours, or centres of a class (SoftTriple)

`x_NF` features, `z_ND = x_NF @ w_DF.T + b_D` embeddings, `zn_ND` L2-normalised embeddings. Everything keeps the dtype
and the device of what it is given.
"""
