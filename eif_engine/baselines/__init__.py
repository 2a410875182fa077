"""Methods to compare empirical influence with.

The influence functions of Koh and Liang (ICML 2017) on the scope of the head weight,

    score(x, P) = grad d(P)^T H^-1 grad L(x),

which is above 0 when learning x has pulled the pair together: harmful, as everywhere here. (Their influence of x on d,
and the published baseline's output, are its negative.) H^-1 is what the modules differ in. Shapes as in
eif_engine/functional; B are the rows of a block, h_QDF is `H^-1 grad d` of Q queries.
"""
